"""What a detector found and what it missed, as pictures: the truth at the left, its detections at the right."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.confusion import by_image, pair, shown_detections
from results.evidence import Evidence
from results.state import Trial

EACH = 2  # pictures of a kind
WIDTH_PX, STACKED_FROM = (
    900,
    1.6,
)  # of a picture in the page; wider than high by so much, the two stand one above the other
FOUND, WRONG, MISSED = "#009E73", "#D55E00", "#F0E442"
JPEG_QUALITY = 82


@dataclass(frozen=True)
class Example:
    """An image, why it was chosen, and its picture."""

    kind: str  # found, false alarms or misses
    file_name: str
    told: str
    jpeg: bytes


@dataclass(frozen=True)
class _Scored:
    """One image's boxes, told apart."""

    image: dict[str, Any]
    truths: list[dict[str, Any]]
    found: list[dict[str, Any]]
    hits: frozenset[int]  # positions in found
    seen: frozenset[int]  # positions in truths

    @property
    def misses(self) -> int:
        return len(self.truths) - len(self.seen)

    @property
    def worst_alarm(self) -> float:
        """The score of the surest detection of nothing."""
        return max((row["score"] for n, row in enumerate(self.found) if n not in self.hits), default=0.0)


def examples(evidence: Evidence, trial: Trial) -> list[Example]:
    """The images where most was found and nothing wrong, those with the surest false alarms, those with most misses."""
    detections = shown_detections(evidence, trial)
    if detections is None or evidence.ground_truth is None:
        return []
    truths_of = by_image([row for row in evidence.ground_truth["annotations"] if not row.get("iscrowd", 0)])
    found_of = by_image(detections)
    scored = [
        _score(row, truths_of.get(row["id"], []), found_of.get(row["id"], []))
        for row in evidence.ground_truth["images"]
    ]
    clean = [s for s in scored if s.hits and not s.misses and not s.worst_alarm]
    kinds = {
        "found": sorted(clean or [s for s in scored if s.hits], key=lambda s: -len(s.hits)),
        "false alarms": sorted((s for s in scored if s.worst_alarm), key=lambda s: -s.worst_alarm),
        "misses": sorted((s for s in scored if s.misses), key=lambda s: -s.misses),
    }
    folder = Path(evidence.plan["source"]["val"][1])
    names = evidence.plan["dataset"]["classes"]
    chosen, taken = [], set()
    for kind, ranked in kinds.items():
        fresh = [s for s in ranked if s.image["id"] not in taken][:EACH]
        for one in fresh:
            taken.add(one.image["id"])
            with contextlib.suppress(OSError):  # the data has moved: the numbers stand without pictures
                told = f"{len(one.hits)} of {len(one.truths)} found, {len(one.found) - len(one.hits)} false alarms"
                chosen.append(
                    Example(kind, one.image["file_name"], told, _draw(folder / one.image["file_name"], one, names))
                )
    return chosen


def _score(image: dict[str, Any], truths: list[dict[str, Any]], found: list[dict[str, Any]]) -> _Scored:
    """Pairs by overlap; a pair of two classes is a miss and a false alarm."""
    alike = [(g, d) for g, d in pair(truths, found) if truths[g]["category_id"] == found[d]["category_id"]]
    return _Scored(image, truths, found, frozenset(d for _, d in alike), frozenset(g for g, _ in alike))


def _draw(path: Path, one: _Scored, names: list[str]) -> bytes:
    from PIL import Image

    with Image.open(path) as opened:
        pixels = opened.convert("RGB")
    scale = max(1, min(4, WIDTH_PX // pixels.width))
    pixels = pixels.resize(
        (pixels.width * scale, pixels.height * scale),
        Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS,
    )
    left, right = pixels.copy(), pixels
    _boxes(
        left,
        [(row, FOUND if n in one.seen else MISSED, names[row["category_id"] - 1]) for n, row in enumerate(one.truths)],
        scale,
    )
    marked = [
        (row, FOUND if n in one.hits else WRONG, f"{names[row['category_id'] - 1]} {row['score']:.2f}")
        for n, row in enumerate(one.found)
    ]
    _boxes(right, marked, scale)
    stacked = pixels.width > STACKED_FROM * pixels.height
    size = (pixels.width, 2 * pixels.height + 6) if stacked else (2 * pixels.width + 6, pixels.height)
    sheet = Image.new("RGB", size, "#808080")
    sheet.paste(left, (0, 0))
    sheet.paste(right, (0, pixels.height + 6) if stacked else (pixels.width + 6, 0))
    sheet.thumbnail((2 * WIDTH_PX, 2 * WIDTH_PX))
    out = io.BytesIO()
    sheet.save(out, format="JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def _boxes(canvas: Any, rows: list[tuple[dict[str, Any], str, str]], scale: int) -> None:
    from PIL import ImageDraw

    pen = ImageDraw.Draw(canvas)
    for row, colour, told in rows:
        x, y, w, h = (side * scale for side in row["bbox"])
        pen.rectangle([x, y, x + max(w, 1), y + max(h, 1)], outline=colour, width=2)
        pen.text((x + 1, max(0, y - 11)), told, fill=colour)
