"""The model card of a release, as Markdown."""

from __future__ import annotations

from stereotalker.releases.release import Release


def model_card(release: Release, champion: str, gates: str) -> str:
    """The card. champion: the release that it was compared with; gates: table of the comparison, both empty before."""
    lines = [
        "# StereoTalker, model card",
        "",
        f"Release {release.digest}",
        "",
        f"- Made: {release.made or 'with the package'}",
        f"- Commit: {release.commit or 'of the package'}",
        f"- Code: {release.code}",
        f"- Scale: {release.params.get('scale', 'unknown')}",
        "",
        "Use: overnight batches of talking video of adults who consent. Not for the likeness of a person without",
        "consent, nor for deception. Every video is marked as made by a trained model.",
        "",
        "## Files",
        "",
        *(f"- {name}: SHA-256 {sha256}" for name, sha256 in release.files.items()),
        "",
        "## Training data",
        "",
        "| source | used for | licence |",
        "|---|---|---|",
        *(f"| {source.source} | {source.use} | {source.licence} |" for source in release.sources),
        "",
        "Versions of the data in DVC:",
        "",
        *(f"- {name}: {md5}" for name, md5 in sorted(release.data.items())),
        *(["- those of the package"] if not release.data else []),
        "",
        "## Training runs in MLflow",
        "",
        *(f"- {stage}: {run}" for stage, run in release.runs.items()),
        *(["- none on record"] if not release.runs else []),
    ]
    if gates:
        lines += ["", f"## Compared with {champion}", "", gates]
    return "\n".join(lines) + "\n"
