"""The sections of the report: plain values in, escaped HTML out, "" where there is nothing to show."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from nds_plugin.report.measures import Rows, measures_of

DIGITS = 2  # of AP in percent: at CPU size whole tables lie below 3
MISSING = "&ndash;"
_FACTS = {
    "effective_clusters": "effective number of clusters",
    "effective_sample_size": "effective sample size",
}


def results(rows: Rows, baseline: str) -> str:
    """The result table, what differs from the baseline, and the numbers of each class."""
    if not rows:
        return ""
    measures = measures_of(rows)
    body = _table(
        ["", *measures.means.values()],
        _metric_rows(rows, list(measures.means), baseline),
        sticky=True,
    )
    per_category = {name: dict(row.get(measures.per_class) or {}) for name, row in rows.items()}
    names = list(dict.fromkeys(name for row in per_category.values() for name in row))
    if names:
        body += f"<h3>{measures.of_class}</h3>"
        body += _table(["", *map(_text, names)], _metric_rows(per_category, names, baseline), sticky=True)
    seeds = {name: row["seeds"] for name, row in rows.items() if row.get("seeds")}
    best = "; the best of each column is bold" if len(rows) > 1 else ""
    text = f"{measures.told}{best}."
    if seeds:
        text += " Runs: " + ", ".join(f"{name} {count}" for name, count in seeds.items()) + "."
        text += " &plusmn; is the standard deviation over seeds." if _has_spread(rows) else ""
    return _section("Results on the target", f"<p>{text}</p>{body}")


def _has_spread(rows: Rows) -> bool:
    return any(row.get("spread") for row in rows.values())


def _metric_rows(rows: Rows, metrics: Sequence[str], baseline: str) -> list[str]:
    best = {}
    for metric in metrics:
        numbers = (_number(row.get(metric)) for row in rows.values())
        shown = {round(number, DIGITS) for number in numbers if number is not None}
        best[metric] = max(shown) if len(shown) > 1 else None  # none is best where all look alike
    lines = []
    for name, row in rows.items():
        cells = [f"<td>{_text(name)}</td>"]
        for metric in metrics:
            value, spread = _number(row.get(metric)), _number((row.get("spread") or {}).get(metric))
            text = MISSING if value is None else f"{value:.{DIGITS}f}"
            if value is not None and spread is not None:
                text += f" <span class='spread'>&plusmn; {spread:.{DIGITS}f}</span>"
            is_best = value is not None and round(value, DIGITS) == best[metric]
            cells.append(f"<td{' class=best' if is_best else ''}>{text}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines += [
        _difference(name, rows[name], rows[baseline], baseline, metrics)
        for name in rows
        if baseline in rows and name != baseline
    ]
    return lines


def _difference(
    name: str, row: Mapping[str, Any], other: Mapping[str, Any], baseline: str, metrics: Sequence[str]
) -> str:
    cells = [f"<td>{_text(name)} &minus; {_text(baseline)}</td>"]
    for metric in metrics:
        a, b = _number(row.get(metric)), _number(other.get(metric))
        if a is None or b is None:
            cells.append(f"<td>{MISSING}</td>")
            continue
        change = round(a - b, DIGITS)
        tone = "up" if change > 0 else "down" if change < 0 else ""
        sign = "+" if change > 0 else "&minus;" if change < 0 else "&plusmn;"
        cells.append(f"<td class='{tone}'>{sign}{abs(change):.{DIGITS}f}</td>")
    return f"<tr class=difference>{''.join(cells)}</tr>"


def plain_table(table: Mapping[str, Any]) -> str:
    """A table of texts under its title; cells that say "missing" are set apart."""
    lines = []
    for row in table["rows"]:
        cells = [
            f"<td class=absent>{_text(cell)}</td>"
            if str(cell).startswith("missing")
            else f"<td>{_text(cell)}</td>"
            for cell in row
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    text = f"<p>{_text(table['text'])}</p>" if table.get("text") else ""
    body = text + _table([_text(name) for name in table["header"]], lines, sticky=True)
    return _section(_text(table["title"]), body)


def pictures(rows: Sequence[Mapping[str, Any]], uris: Sequence[str]) -> str:
    """The embedded pictures."""
    if not rows:
        return ""
    figures = "".join(
        f"<figure{_width(row)}><figcaption>{_text(row.get('title', ''))}"
        + (f"<br><span>{_text(row['caption'])}</span>" if row.get("caption") else "")
        + f"</figcaption><div class=scroll><img src='{uri}' alt='{_text(row.get('title', 'picture'))}'></div></figure>"
        for row, uri in zip(rows, uris)
    )
    return _section("Pictures", figures)


def _width(picture: Mapping[str, Any]) -> str:
    kind = next((name for name in ("narrow", "wide") if picture.get(name)), "")
    return f" class={kind}" if kind else ""


def clusters(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """The table of clusters, and the numbers of the selection."""
    if not rows and not facts:
        return ""
    listed = "".join(
        f"<div><dt>{_text(_FACTS.get(name, str(name).replace('_', ' ')))}</dt><dd>{_value(value)}</dd></div>"
        for name, value in facts.items()
    )
    body = f"<dl class=facts>{listed}</dl>" if facts else ""
    if rows:
        heaviest = max([_number(row.get(key)) or 0.0 for row in rows for key in ("w", "share")] + [1e-12])
        lines = [
            f"<tr><td>{_text(row.get('cluster', ''))}</td>"
            f"<td class='text wrap'>{_text(row.get('sources', ''))}</td>"
            f"<td>{_value(row.get('images'))}</td><td>{_score(row)}</td>"
            f"<td>{_bar(row.get('w'), heaviest, 3)}</td><td>{_bar(row.get('share'), heaviest, 3)}</td></tr>"
            for row in rows
        ]
        headers = ["cluster", "main sources", "images", "z", "w", "share of the draw"]
        body += _table(headers, lines, left=1) + _used_up(rows, facts)
    return _section("Selection", body)


def _used_up(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """Why the share of a cluster may stay below its w."""
    drawn = facts.get("images", 0) if facts.get("mode") == "subset" else 0
    used = [
        row
        for row in rows
        if row.get("share") and row["share"] < row["w"] and row["share"] * drawn > 0.9 * row["images"]
    ]
    if not used:
        return ""
    names = ", ".join(str(row["cluster"]) for row in used)
    which = f"cluster {names} is" if len(used) == 1 else f"clusters {names} are"
    return (
        f"<p>{which.capitalize()} used up: the draw takes more than nine tenths of the images, so the share of the draw stays "
        "below w, and the rest comes from other clusters.</p>"
    )


def _score(row: Mapping[str, Any]) -> str:
    z, error = _number(row.get("z")), _number(row.get("stderr"))
    if z is None:
        return MISSING
    return f"{z:.3f}" + ("" if error is None else f" <span class='spread'>&plusmn; {error:.3f}</span>")


def _bar(value: Any, most: float, digits: int) -> str:
    number = _number(value)
    if number is None:
        return MISSING
    width = 100 * max(0.0, min(number / most, 1.0))
    return f"{number:.{digits}f}<span class=bar><i style='width:{width:.0f}%'></i></span>"


def sources(rows: Sequence[Mapping[str, Any]]) -> str:
    """Share of the draw per source beside its share of all source images."""
    if not rows:
        return ""
    lines = [
        f"<tr><td>{_text(row['source'])}</td><td>{_percent(row['draw_share'])}</td>"
        f"<td>{_percent(row['index_share'])}</td><td>{_ratio(row)}</td></tr>"
        for row in sorted(rows, key=lambda row: -float(row["draw_share"]))
    ]
    headers = ["source", "share of the draw", "share of the source images", "factor"]
    return _section("Sources", _table(headers, lines, sticky=True))


def _percent(value: Any) -> str:
    number = _number(value)
    return MISSING if number is None else f"{number:.1%}"


def _ratio(row: Mapping[str, Any]) -> str:
    drawn, index = _number(row["draw_share"]), _number(row["index_share"])
    return MISSING if drawn is None or not index else f"&times; {drawn / index:.2f}"


def transfer(log: Mapping[str, Any]) -> str:
    """What fine-tuning took over from pretraining."""
    if not log:
        return ""
    lines = [
        f"<tr><td>{_text(row['target'])}</td><td class=text>{_text(row.get('source') or '') or MISSING}</td>"
        f"<td class=text>{_text(row.get('how', ''))}</td></tr>"
        for row in log.get("classes") or []
    ]
    headers = ["target class", "initialised from source class", "by"]
    body = _table(headers, lines, left=2) if lines else ""
    for name, text in (
        ("kept", "parameters copied whole"),
        ("mapped", "parameters copied row by row, by class name"),
        ("dropped", "parameters of the checkpoint not used"),
        ("initialised", "target classes without a source class"),
        ("missing", "parameters that keep their own initialisation"),
    ):
        if name not in log:
            continue
        found = log[name] or []
        items = [f"{key}: {why}" for key, why in found.items()] if isinstance(found, Mapping) else list(found)
        listed = "".join(f"<li>{_text(item)}</li>" for item in items)
        summary = f"<summary>{name} ({len(items)}): {text}</summary>"
        body += f"<details>{summary}<ul>{listed}</ul></details>" if items else f"<p>{name} (0): {text}</p>"
    return _section("Transfer", body)


def timings(seconds: Mapping[str, Any], in_parts: Sequence[str] = ()) -> str:
    """Seconds per step and their sum, and what of the work they leave out."""
    if not seconds:
        return ""
    numbers = {name: _number(value) for name, value in seconds.items()}
    total = sum(value for value in numbers.values() if value is not None)
    lines = [f"<tr><td>{_text(name)}</td><td>{_duration(value)}</td></tr>" for name, value in numbers.items()]
    text = "A step that is not listed was not needed, kept from an earlier start, or taken from another job."
    if in_parts:
        names = " and ".join(map(_text, in_parts))
        text += f" {names} had been interrupted: the time is that since it last went on."
    lines.append(f"<tr class=difference><td>sum of these</td><td>{_duration(total)}</td></tr>")
    return _section("Time", f"<p>{text}</p>" + _table(["step", "time"], lines))


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def config(versions: Mapping[str, Any], settings: Any) -> str:
    """Versions and the whole config."""
    body = ""
    if versions:
        body = "".join(
            f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in versions.items()
        )
        body = f"<dl class=facts>{body}</dl>"
    if settings:
        text = settings if isinstance(settings, str) else json.dumps(settings, indent=2, default=str)
        body += f"<details><summary>the whole config</summary><pre>{_text(text)}</pre></details>"
    return _section("Versions and config", body) if body else ""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>\n"


def _table(headers: Sequence[str], lines: Sequence[str], sticky: bool = False, left: int = 0) -> str:
    """``headers`` and ``lines`` are HTML already; ``sticky``: the first column stays in view;
    ``left``: number of columns after the first whose headers stand on the left."""
    head = "".join(
        f"<th{' class=text' if 1 <= place <= left else ''}>{header}</th>"
        for place, header in enumerate(headers)
    )
    kind = " class=sticky" if sticky else ""
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f"<div class=scroll><table{kind}>{body}</table></div>"


def _text(value: Any) -> str:
    return escape(str(value))


def _value(value: Any) -> str:
    """A number with as many digits as a reader needs, or text."""
    if value is None:
        return MISSING
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _text(value)
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) >= 1000):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _number(value: Any) -> float | None:
    """A finite number, or None for what was not computed (None, NaN)."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None
