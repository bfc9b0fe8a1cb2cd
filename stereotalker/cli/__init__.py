"""The command line, `stereotalker`.

Importing this package sets the environment variables of other libraries before those libraries are imported.
"""

from stereotalker.runtime.environment import set_library_defaults

set_library_defaults()
