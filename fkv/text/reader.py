"""Reads a prompt in free English: synonyms, any order, any ending; what was guessed or not understood is said in a sentence."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace

from fkv.text.meaning import COLOURS, EXAMPLES, MOST_OBJECTS, MOTIONS, MOVING, SHAPES, THEMES, Parsed, Thing

SYNONYMS = {
    "red": "crimson scarlet ruby maroon cherry",
    "blue": "navy azure sapphire cobalt indigo",
    "yellow": "gold golden amber lemon",
    "purple": "violet lilac magenta lavender",
    "white": "ivory pearl silver",
    "ball": "circle sphere orb disc disk globe",
    "box": "square cube block crate",
    "star": "pentagram asterisk",
    "triangle": "pyramid wedge cone",
    "bounce": "jump hop leap spring",
    "drift": "float move fly flies slide glide hover travel wander",
    "orbit": "circling revolve rotate spin loop",
    "fall": "drop descend sink tumble plunge",
    "green hills": "hill meadow grass grassy grassland field countryside park forest",
    "snowy night": "night snow snowy winter wintry ice icy frosty arctic moonlit starry",
    "desert sunset": "desert sunset dune sand sandy dusk canyon savanna",
    "calm sea": "sea ocean water lake waves wave seaside",
    "wall": "brick barrier fence occluder",
    "camera": "pan view viewpoint scroll",
    "still": "static fixed steady motionless stationary",
    "left": "leftward leftwards",
    "right": "rightward rightwards",
}
KNOWN = {word: value for value, words in SYNONYMS.items() for word in (value, *words.split())}
NEAREST = {"green": ("blue", "yellow"), "orange": ("red", "yellow"), "pink": ("purple", "red"), "black": ("blue", "purple"),
           "gray": ("white",), "grey": ("white",), "brown": ("red", "yellow"), "cyan": ("blue",), "turquoise": ("blue",)}  # fmt: skip
NUMBERS = {
    **dict.fromkeys(("a", "an", "the", "one"), 1),
    **dict.fromkeys(("two", "couple", "pair"), 2),
    **{word: number for number, word in enumerate(("three", "four", "five", "six", "seven", "eight", "nine", "ten"), start=3)},
}
JOINT_WORDS = "and with over in on at behind past beside near under above across before while then , ; . &"
FILLER_WORDS = (
    "of is are that which its it to into from by around through up down slowly gently slow big small little large bright shiny tiny some "
    "sky calm scene day there objects object as side stays stay for"
)
JOINTS, FILLERS = frozenset(JOINT_WORDS.split()), frozenset(FILLER_WORDS.split())


def parse(text: str) -> Parsed:
    """Reads free English: case, plurals, word order and synonyms do not matter; what was guessed or not understood is said in notes.

    Raises ValueError if the text has no words or names more than three objects.
    """
    return _Reader(text).parsed()


@dataclass
class _Group:
    """Words about one object, or about `count` alike, as they are being read."""

    count: int = 1
    named: bool = False
    colour: str | None = None
    shape: str | None = None
    motion: str | None = None
    unknown: bool = False
    tint: str | None = None


class _Reader:
    """Reads one prompt from left to right; a joint ("and", a comma, "over", an article) ends a group of words."""

    def __init__(self, text: str) -> None:
        self.words = re.findall(r"[a-z]+|\d+|[,;.&]", text.lower())
        if not any(word.isalpha() for word in self.words):
            raise ValueError(f'the prompt has no English words; name 1 to {MOST_OBJECTS} objects, for example "{EXAMPLES[0]}"')
        self.groups: list[_Group] = [_Group()]
        self.theme: str | None = None
        self.camera: str | None = None
        self.side: str | None = None
        self.wall = self.in_camera = self.denied = False
        self.notes: list[str] = []
        self.unknown: list[str] = []

    def parsed(self) -> Parsed:
        for word in self.words:
            self._read(word)
        self._name_unknown()
        self._end_side()
        things = self._things()
        if self.theme is None:
            self.theme = THEMES[0]
            self.notes.append(f"The prompt names no place; took {THEMES[0]}. Known places: {', '.join(THEMES)}.")
        if self.camera == "camera":
            self.camera = "right"
            self.notes.append("The prompt does not say where the camera pans; took right. Known: camera panning left, right.")
        return Parsed(things, self.theme, self.wall, self.camera or "still", tuple(self.notes))

    def _read(self, word: str) -> None:
        if word in NUMBERS or word.isdigit():
            self.groups.append(_Group(int(word[:4]) if word.isdigit() else NUMBERS[word], named=True))
        elif word in JOINTS:
            self.groups.append(_Group())
            self._end_side()
            self.in_camera = self.denied = False
        elif word in ("no", "not", "without"):
            self.denied = True
        elif (value := _known(word)) is not None:
            self._take(value, self.groups[-1])
        elif word in NEAREST:
            self.groups[-1].tint = word
        elif word not in FILLERS and word not in self.unknown:
            self.unknown.append(word)
            self.groups[-1].unknown = True

    def _take(self, value: str, group: _Group) -> None:
        if value in THEMES:
            self._place(value)
        elif value in ("wall", "camera", "still", "left", "right"):
            self._surroundings(value)
        elif value in MOTIONS:
            if not self.in_camera:
                group.motion = group.motion or value
        else:
            kind = "colour" if value in COLOURS else "shape"
            if group.shape is not None or (kind == "colour" and group.colour is not None):
                group = _Group()
                self.groups.append(group)
            setattr(group, kind, value)
            self.in_camera = False

    def _place(self, theme: str) -> None:
        self._drop_adjectives()
        if self.theme is None:
            self.theme = theme
        elif self.theme != theme:
            self.notes.append(f"The prompt names two places; took {self.theme}, not {theme}.")

    def _surroundings(self, value: str) -> None:
        if value == "wall":
            self._drop_adjectives()
            self.wall = not self.denied
        elif value in ("left", "right"):
            if self.camera == "camera":
                self.camera = value
            else:
                self.side = value
        elif value == "still":
            self.camera = "still"
        elif self.camera in (None, "camera"):
            self.in_camera = True
            self.camera = "still" if self.denied else self.side or "camera"
            self.side = None

    def _end_side(self) -> None:
        if self.side is not None:
            self.notes.append(f'"{self.side}" is understood only of the camera, as in "camera panning {self.side}".')
        self.side = None

    def _drop_adjectives(self) -> None:
        """Forgets a colour that described a place or a wall, and the green of green hills."""
        if self.groups[-1].shape is None:
            self.groups[-1] = replace(self.groups[-1], colour=None, named=False, unknown=False, tint=None)

    def _things(self) -> tuple[Thing, ...]:
        found: list[_Group] = []
        for group in self.groups:
            if group.shape or group.colour or (group.motion and group.named and group.unknown):
                found.append(group)
            elif group.motion and found:
                found[-1].motion = found[-1].motion or group.motion
        for group, following in zip(found[-2::-1], found[:0:-1]):
            group.shape, group.motion = group.shape or following.shape, group.motion or following.motion
        if not found:
            found = [_Group()]
            self.notes.append("The prompt names no object that is known; took one.")
        total = sum(group.count for group in found)
        if total > MOST_OBJECTS or total < 1:
            cure = f"remove {total - MOST_OBJECTS} of them" if total else "name at least one"
            raise ValueError(f"the prompt names {total} objects; the model knows 1 to {MOST_OBJECTS}: {cure}")
        return self._complete([group for group in found for _ in range(group.count)])

    def _complete(self, groups: list[_Group]) -> tuple[Thing, ...]:
        """Objects with every gap filled by a fixed rule, in the order of COLOURS; two objects never share a colour."""
        named = {group.colour for group in groups}
        used: set[str] = set()
        things = []
        for group in groups:
            colour, shape, motion = group.colour, group.shape or SHAPES[0], group.motion or MOTIONS[0]
            if colour is None or colour in used:
                free = next(c for c in COLOURS if c not in used and c not in named)
                why = f"the {shape} has no known colour" if colour is None else f"two objects cannot both be {colour}"
                self.notes.append(f"{why[0].upper()}{why[1:]}; made one {free}.")
                colour = free
            used.add(colour)
            if group.shape is None:
                self.notes.append(f"The {colour} object has no known shape; took {shape}. Known shapes: {', '.join(SHAPES)}.")
            if group.motion is None:
                self.notes.append(f"The {colour} {shape} has no known motion; took {MOVING[motion]}. Known: {', '.join(MOVING.values())}.")
            things.append(Thing(colour, shape, motion))
        return tuple(sorted(things, key=lambda thing: COLOURS.index(thing.colour)))

    def _name_unknown(self) -> None:
        for word in [*dict.fromkeys(group.tint for group in self.groups if group.tint), *self.unknown]:
            near = NEAREST.get(word) or difflib.get_close_matches(word, (*KNOWN, *MOVING.values()), n=3, cutoff=0.6)
            if near:
                self.notes.append(f'The word "{word}" is not known; the nearest known: {", ".join(near)}.')
            else:
                self.notes.append(f'The word "{word}" is not known and nothing known is near it; it was left out.')


def _known(word: str) -> str | None:
    """The value a word stands for, whatever its ending; None if it stands for none."""
    if word in KNOWN:
        return KNOWN[word]
    for ending in ("ing", "es", "ed", "s"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            stem = word[: -len(ending)]
            for form in (stem, stem + "e", stem[:-1] if stem[-1:] == stem[-2:-1] else stem):
                if form in KNOWN:
                    return KNOWN[form]
    return None
