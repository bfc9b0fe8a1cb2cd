"""MkDocs hook: reference pages from the code, figures from the measurements, both made anew at every build.

The manifest's and params.yaml's pages come from their pydantic models, the command line's page from Typer's commands.
The prose around the tables is in `docs/hooks/*.md`, with `{{ name }}` where a table goes. The figures are in
`evaluation_tables.py`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import evaluation_tables  # beside this file: MkDocs and the tests put its folder into sys.path
import yaml

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ("*.jpg", "*.png", "people/*.jpg")  # of metrics/
_PLACEHOLDER = re.compile(r"\{\{ (\w+) \}\}")
_FIGURES = re.compile(r"^<!-- figures: (.+) -->$", re.MULTILINE)

# The manifest's keys by what they are about. A key that no group names is put into the last one.
GROUPS = {
    "who": ("id", "avatar", "scene", "consent", "arms", "background"),
    "speech": (
        "audio",
        "part",
        "speaker",
        "script",
        "transcript",
        "language",
        "voice",
        "rate",
        "pitch",
        "lexicon",
        "loudness",
        "captions",
    ),
    "picture": ("width", "height", "fps", "camera", "stereo"),
    "motion": ("seed", "gesture", "style", "gaze", "body", "rest", "emotion", "cues", "start_pose", "end_pose"),
    "order": ("retakes", "priority", "deadline"),
}
_ANCHORS = {
    "CameraPath": "camera",
    "CameraKeyFrame": "camera-points",
    "Stereo": "stereo",
    "Captions": "captions",
    "Part": "part",
    "Consent": "consent",
    "EmotionKey": "emotion",
    "CueKey": "cues",
    "Retake": "retakes",
    "Person": "scene",
}
# Models of which a table shows some keys: the others are those of a row.
_OWN_KEYS = {"Person": ["avatar", "name", "at", "behind", "start"]}


# ---- MkDocs' events


def on_files(files, config):
    """Add the reference pages, and the pictures of metrics/."""
    from mkdocs.structure.files import File

    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # the checkout that the pages belong to, whatever package is installed
    pages = {"manifest.md": manifest_page, "params.md": params_page, "cli.md": cli_page}
    for name, make in pages.items():
        files.append(File.generated(config, f"reference/{name}", content=make()))
    for picture in sorted(path for pattern in PICTURES for path in (ROOT / "metrics").glob(pattern)):
        uri = picture.relative_to(ROOT).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Put tables where a page says `<!-- figures: NAME -->`."""
    return _FIGURES.sub(lambda found: evaluation_tables.table(found[1], ROOT), markdown)


# ---- The pages


def manifest_page() -> str:
    from stereotalker.acting.reference_acting import STYLE_INDEX
    from stereotalker.production.manifest import Clip

    schema, models = Clip.model_json_schema(), _models(Clip)
    properties = schema["properties"]
    grouped = [name for names in GROUPS.values() for name in names]
    parts = {
        name: key_table(models, schema, "Clip", [key for key in names if key in properties])
        for name, names in GROUPS.items()
    }
    rest = [key for key in properties if key not in grouped]
    parts["order"] += key_table(models, schema, "Clip", rest).split("\n", 2)[-1] if rest else ""
    for model, anchor in _ANCHORS.items():
        parts[anchor.replace("-", "_")] = key_table(models, schema, model, _OWN_KEYS.get(model))
    parts["cue_names"] = _cue_lists()
    parts["styles"] = ", ".join(f"`{name}`" for name in STYLE_INDEX)
    return _fill("manifest.md", parts)


def params_page() -> str:
    from stereotalker.params import Params, load_params

    file = ROOT / "params.yaml"
    text = file.read_text()
    comments, values, raw = yaml_comments(text), load_params(file).model_dump(mode="json"), yaml.safe_load(text)
    schema = Params.model_json_schema()
    out = [_fill("params.md", {"scale": values["scale"]})]
    for section, value in values.items():
        if not isinstance(value, dict):
            continue
        out.append(f"## {section}\n\n{_sentence(comments.get(section, ''))}\n")
        rows = list(_params_rows(schema, schema["properties"][section], value, section, comments))
        out.append(_table(("key", "type", "value", "limits", "what it is"), rows))
        other = {scale: raw[section][scale] for scale in ("tiny", "studio", "full") if scale in raw[section]}
        for scale, changes in other.items():
            changed = ", ".join(f"`{key}: {_yaml(new)}`" for key, new in changes.items())
            out.append(f"At scale `{scale}`: {changed}.\n")
    return "\n".join(out)


def cli_page() -> str:
    import typer

    from stereotalker.cli.main import app

    root = typer.main.get_command(app)
    out = []
    for name, command in root.commands.items():
        if hasattr(command, "commands"):
            out.append(f"## {name}\n\n{_prose(command.help)}\n")
            out += [_command(f"{name} {inner}", found, "###") for inner, found in command.commands.items()]
        else:
            out.append(_command(name, command, "##"))
    return _fill("cli.md", {"commands": "\n".join(out)})


# ---- pydantic's schema as tables


def _cue_lists() -> str:
    """All cues, by what they move."""
    from stereotalker.acting.cues import cue_names, parse_cue

    groups: dict[str, list[str]] = {"The head": [], "The face": [], "A hand or both, as on such a word": []}
    for name in cue_names():
        cue = parse_cue(name)
        group = "A hand or both, as on such a word" if cue.arms else "The head" if cue.head else "The face"
        groups[group].append(f"`{name}`")
    return "\n".join(f"- {group}: {', '.join(names)}" for group, names in groups.items())


def key_table(models: dict[str, type], schema: dict, model: str, keys: list[str] | None = None) -> str:
    """A table of a model's keys: name, type, default, limits, description. keys: some of them, in this order."""
    node = schema["$defs"].get(model, schema) if model != "Clip" else schema
    required, rows = node.get("required", ()), []
    for key in keys if keys is not None else node["properties"]:
        own = node["properties"][key]
        words = own.get("description", "")
        older = _aliases(models[model], key)
        note = f" (also written `{'`, `'.join(older)}`)" if older else ""
        words = re.sub(r" \(older name: \w+\)", "", words) + note
        default = "**required**" if key in required else _default(own.get("default"))
        rows.append((f"`{key}`", type_words(own), default, limits(own), words))
    return _table(("key", "type", "default", "limits", "what it is"), rows)


def type_words(node: dict) -> str:
    """What may be written for a key."""
    if "anyOf" in node:
        kinds = list(dict.fromkeys(type_words(option) for option in node["anyOf"] if option.get("type") != "null"))
        return " or ".join(kinds)
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[-1]
        return f"[mapping](#{_ANCHORS[name]})" if name in _ANCHORS else "mapping"
    if "enum" in node:
        values = [f"`{value}`" for value in node["enum"]]
        return " or ".join(values) if len(values) < 5 else f"one of {', '.join(values)}"
    if node.get("type") == "array":
        return f"list of {_plural(type_words(node.get('items', {})))}"
    if node.get("type") == "object":
        return "mapping"
    formats = {"path": "path", "date": "date", "date-time": "date and time", "time": "time of day"}
    kinds = {"string": "text", "number": "number", "integer": "whole number", "boolean": "`true` or `false`"}
    return formats.get(node.get("format", "")) or kinds.get(node.get("type", ""), "any")


def limits(node: dict) -> str:
    """The range of a number, in words."""
    for option in (node, *node.get("anyOf", ())):
        low, high = option.get("minimum"), option.get("maximum")
        above, below = option.get("exclusiveMinimum"), option.get("exclusiveMaximum")
        if low is not None and high is not None:
            return f"{_number(low)} to {_number(high)}"
        said = [
            f"more than {_number(above)}" if above is not None else "",
            f"at least {_number(low)}" if low is not None else "",
            f"at most {_number(high)}" if high is not None else "",
            f"less than {_number(below)}" if below is not None else "",
            f"multiple of {_number(option['multipleOf'])}" if "multipleOf" in option else "",
        ]
        if any(said):
            return ", ".join(filter(None, said))
    return ""


def _models(root: type) -> dict[str, type]:
    """Every model that a model's keys lead to, by name."""
    found, waiting = {}, [root]
    while waiting:
        model = waiting.pop()
        if model.__name__ in found:
            continue
        found[model.__name__] = model
        for field in model.model_fields.values():
            waiting += [kind for kind in _flat(field.annotation) if hasattr(kind, "model_fields")]
    return found


def _flat(annotation) -> list[type]:
    inner = get_args(annotation)
    return [kind for part in inner for kind in _flat(part)] if inner else [annotation]


def _aliases(model: type, key: str) -> list[str]:
    """Other names under which a key is read: pydantic's aliases, and the manifest's table of older names."""
    from stereotalker.production import manifest

    alias = model.model_fields[key].validation_alias if key in model.model_fields else None
    older = [old for old, new in getattr(manifest, "OLD_NAMES", {}).items() if new == key]
    return [name for name in dict.fromkeys((*getattr(alias, "choices", ()), *older)) if name != key]


def _params_rows(schema: dict, node: dict, value: Any, path: str, comments: dict[str, str]):
    """A row for every key below `path`; mappings of known keys are written with dots."""
    name = node.get("$ref", "").rsplit("/", 1)[-1]
    for key, own in schema["$defs"][name]["properties"].items():
        place, inner = f"{path}.{key}", value[key]
        if "$ref" in own and isinstance(inner, dict):
            if comments.get(place):
                yield (f"`{_below(place)}`", "mapping", "", "", comments[place])
            yield from _params_rows(schema, own, inner, place, comments)
        else:
            yield (f"`{_below(place)}`", type_words(own), f"`{_yaml(inner)}`", limits(own), comments.get(place, ""))


def _below(place: str) -> str:
    return place.split(".", 1)[1]


def yaml_comments(text: str) -> dict[str, str]:
    """The comment of every key of params.yaml, by its dotted path: behind it, or in the lines above it."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    above: list[str] = []
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith("#"):
            above.append(bare.lstrip("# "))
            continue
        key = re.match(r"(\s*)([\w.]+):", line)
        if not key:
            above = []
            continue
        depth = len(key[1])
        path = [step for step in path if step[0] < depth] + [(depth, key[2])]
        behind = re.search(r"(?:^|\s)# (.*)$", line)
        words = [*(above if len(path) > 1 else ()), *([behind[1]] if behind else ())]
        found[".".join(step for _, step in path)] = " ".join(words)
        above = []
    return found


# ---- Typer's commands as text


def _command(name: str, command, heading: str) -> str:
    arguments = [p for p in command.params if not p.opts[0].startswith("-")]
    options = [p for p in command.params if p.opts[0].startswith("-")]
    shown = " ".join(f"{p.name.upper()}" if p.required else f"[{p.name.upper()}]" for p in arguments)
    usage = " ".join(filter(None, ["stereotalker", name, shown, "[OPTIONS]" if options else ""]))
    out = [f"{heading} {name}\n\n{_prose(command.help)}\n\n```\n{usage}\n```\n"]
    rows = [
        (
            f"`{'`, `'.join([p.name.upper()] if p in arguments else p.opts)}`",
            _option_type(p),
            "**required**" if p.required else _option_default(p),
            _cell(p.help or ""),
        )
        for p in (*arguments, *options)
    ]
    return "\n".join([*out, _table(("name", "type", "default", "what it is"), rows) if rows else ""])


def _option_type(parameter) -> str:
    if getattr(parameter, "is_flag", False):
        return "switch"
    described = getattr(parameter, "type_descriptor", None)  # Typer's own from 0.26 on, click's before
    if described is None:
        choices = getattr(parameter.type, "choices", None)
        return " or ".join(f"`{c}`" for c in choices) if choices else str(parameter.type.name)
    kind = described.annotation
    if get_origin(kind) is list:
        return "text, may be repeated"
    if get_origin(kind) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(kind))
    return {str: "text", int: "whole number", float: "number", bool: "switch", Path: "path"}.get(kind, str(kind))


def _option_default(parameter) -> str:
    value = parameter.default
    if callable(value) or value is None or getattr(parameter, "is_flag", False):
        return ""
    return f"`{value}`"


# ---- Markdown


def _fill(template: str, parts: dict[str, str]) -> str:
    text = (Path(__file__).parent / template).read_text()
    return _PLACEHOLDER.sub(lambda found: str(parts[found[1]]).rstrip(), text)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table without the columns that are empty in every row."""
    used = [k for k in range(len(head)) if any(row[k] for row in rows)]
    lines = ["| " + " | ".join(head[k] for k in used) + " |", "|" + "---|" * len(used)]
    lines += ["| " + " | ".join(_cell(row[k]) for k in used) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text on one line, in which no bar ends the cell and no `<` outside of code begins a tag."""
    parts = " ".join(str(text).split()).replace("|", "\\|").split("`")
    return "`".join(part if k % 2 else part.replace("<", "&lt;") for k, part in enumerate(parts))


def _prose(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n"))


def _sentence(text: str) -> str:
    """A comment as a sentence of its own."""
    text = text.replace("dvc stage", "DVC stage")
    return f"{text[:1].upper()}{text[1:]}." if text and not text.endswith(".") else text


def _plural(kind: str) -> str:
    return {"text": "texts", "path": "paths", "number": "numbers", "whole number": "whole numbers"}.get(
        kind, kind.replace("[mapping]", "[mappings]")
    )


def _default(value) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return f"`kind: {value['kind']}`" if "kind" in value else "as below"
    if value in ("", [], ()):
        return "empty"
    return f"`{_yaml(value)}`"


def _yaml(value) -> str:
    """As params.yaml writes it, on one line."""
    if isinstance(value, float):
        return _number(value)
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000).strip()
    return text.removesuffix("...").strip()


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else f"{value:g}"
