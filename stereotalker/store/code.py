"""Digests of the code and of the libraries that a stage's results depend on. Store keys hold them.

A stage depends on its own modules and on whatever they import, directly or not. Comments and docstrings do not count,
and neither does the code of the command line, the flows and the tasks, which only say when and where results are made.
"""

from __future__ import annotations

import ast
import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import grimp

from stereotalker.params import ROOT
from stereotalker.store.digests import digest, file_digest

_PACKAGE = Path(__file__).parent.parent

# Modules of the package in which the work of each stage is done. What they import is found.
STAGE_MODULES = {
    "audio": ("audio.speech",),
    "motion": ("motion.synthesize", "production.motion_controls", "production.conversation"),
    "portrait": (
        "avatar.fit_portrait",
        "avatar.photo_detail",
        "media.photos",
        "avatar.mediapipe_detector",
        "avatar.fallback_crops",
        "avatar.card_image",
        "control.reference_warp",
    ),
    "avatar": ("avatar.background_plate",),
    "render": ("production.segments",),
    "video": ("media.video_files", "production.segments", "production.scene_pictures"),
    "quality": ("production.clip_judgement",),
    "provenance": ("media.content_credentials",),
}


# Modules that read settings, say what is wrong, and move bytes. They do not change what a stage of dvc.yaml computes,
# so a change in them repeats no training.
_NEUTRAL = frozenset(
    f"{_PACKAGE.name}.{module}"
    for module in (
        "errors", "params", "validation", "runtime.environment", "runtime.home", "runtime.process_identity",
        "runtime.stage_log", "stages.paths", "store.code", "store.files", "store.local", "store.remote", "store.urls",
    )
)  # fmt: skip


def code_version() -> str:
    """Digest of the code and the libraries of all stages of a clip."""
    return digest([stage_version(stage) for stage in STAGE_MODULES])


def package_digest() -> str:
    """Digest of the package's source files as they are, which takes less time than `code_version`."""
    # In a checkout, two of the folders are links.
    folders = os.walk(_PACKAGE, followlinks=True)
    files = [Path(folder, name) for folder, _, names in folders for name in names if name.endswith(".py")]
    return digest(sorted((path.relative_to(_PACKAGE).as_posix(), file_digest(path)) for path in files))


def library_versions() -> dict[str, str]:
    """Version of every installed distribution that a stage of a clip imports."""
    libraries = set[str]().union(*(_imports(modules)[1] for modules in STAGE_MODULES.values()))
    names = {name for library in libraries for name in _distributions().get(library, ())}
    return {name: installed_version(name) for name in sorted(names)}


def installed_version(distribution: str) -> str:
    """Version of a distribution; empty if it is not installed, as optional ones may not be."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def stage_version(stage: str) -> str:
    """Digest of the code and the libraries of a stage, see `modules_version`."""
    return modules_version(STAGE_MODULES[stage])


@cache
def modules_version(modules: tuple[str, ...]) -> str:
    """Digest of modules of the package and of all that they import, and of the versions of Python and of libraries."""
    own, libraries = _imports(modules)
    return digest(
        "stage",
        sorted((module, _module_digest(module)) for module in own),
        sorted((library, _version(library)) for library in libraries),
        [platform.python_implementation(), *sys.version_info[:2]],
        _replaced_ffmpeg() if "imageio_ffmpeg" in libraries else "",
    )


def training_code_version(stage: str) -> str:
    """As `modules_version`, of a stage of dvc.yaml, without the modules that do not change what it computes."""
    own, libraries = _imports((f"stages.{stage}",))
    return digest(
        sorted((module, _module_digest(module)) for module in own - _NEUTRAL),
        sorted((library, _version(library)) for library in libraries),
    )


def stage_files(stage: str) -> list[str]:
    """Paths, relative to the root of a checkout, of the modules that a stage of dvc.yaml depends on."""
    modules = _imports((f"stages.{stage}",))[0] - _NEUTRAL
    return sorted(str(_module_file(module).relative_to(_PACKAGE.parent)) for module in modules)


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph(_PACKAGE.name, include_external_packages=True, cache_dir=None)


def _imports(modules: tuple[str, ...]) -> tuple[set[str], set[str]]:
    """The modules of the package that these need, themselves included, and the installed packages that those import."""
    roots = {f"{_PACKAGE.name}.{module}" for module in modules}
    found = roots.union(*(_graph().find_upstream_modules(module) for module in roots))
    own = {module for module in found if module.partition(".")[0] == _PACKAGE.name}
    return own, {module.partition(".")[0] for module in found - own} - sys.stdlib_module_names


def _module_file(module: str) -> Path:
    path = _PACKAGE.joinpath(*module.split(".")[1:])
    file = path.with_suffix(".py")
    return file if file.is_file() else path / "__init__.py"


@cache
def _module_digest(module: str) -> str:
    """Digest of a module's syntax tree without its docstrings."""
    tree = ast.parse(_module_file(module).read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return digest(ast.dump(tree))


def checkout_commit() -> str:
    """Short hash of the checkout's commit, with "+changes" if files differ from it; empty for an installed package."""
    if not (ROOT / ".git").exists():
        return ""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True).stdout.strip()

    is_changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short", "HEAD") + ("+changes" if is_changed else "")


def _replaced_ffmpeg() -> str:
    """Digest of the program that imageio-ffmpeg runs in place of its own; empty if it runs its own."""
    program = os.environ.get("IMAGEIO_FFMPEG_EXE")
    return file_digest(Path(program)) if program and Path(program).is_file() else program or ""


@cache
def _distributions() -> dict[str, list[str]]:
    return {name: sorted(set(found)) for name, found in packages_distributions().items()}


def _version(package: str) -> str:
    """Version of an importable package; empty if it is not installed."""
    return " ".join(f"{name} {installed_version(name)}" for name in _distributions().get(package, ()))
