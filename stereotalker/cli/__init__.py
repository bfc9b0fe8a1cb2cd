"""The command line, `stereotalker`. Importing it sets the environment of other libraries, before they are imported."""

from stereotalker.runtime.environment import set_library_defaults

set_library_defaults()
