"""Gestures of the reference motion: a lexicon of words and their gesture classes, and how hands move through a gesture.

A gesture has the phases of McNeill 1992 and Kendon 2004: preparation, stroke, hold and retraction. The stroke falls on
the stressed syllable of its word or a little before it. Gestures that are near in time flow into each other without
returning to rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stereotalker.acting.arm_ik import HandTarget

# Directions for the left hand: inwards is to the person's right.
_IN, _OUT, _UP, _DOWN, _FRONT, _BACK = (-1, 0, 0), (1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)


def _mix(*parts: tuple[tuple[int, int, int], float]) -> tuple[float, float, float]:
    """Weighted sum of directions."""
    x, y, z = (float(sum(d[k] * w for d, w in parts)) for k in range(3))
    return x, y, z


_FORWARD_UP = _mix((_FRONT, 1), (_UP, 0.8))
_INWARD = _mix((_FRONT, 0.8), (_IN, 0.7), (_UP, 0.3))


@dataclass(frozen=True)
class GestureClass:
    """A class of gestures: the poses of a hand around the stroke, and the movement of the head that belongs to it."""

    moves: tuple[tuple[float, HandTarget], ...]  # time relative to the stroke in s, and where the hand is then
    is_two_handed: bool = False
    head_move: str = ""  # "nod", "shake", "tilt", or "" for none
    hold_s: float = 0.22  # how long the hand stays at the last pose, on average


def _hand_at(x: float, y: float, z: float, fingers, palm, shape: str = "open", swivel: float = 0.4) -> HandTarget:
    """A hand target with its wrist at x, y, z m."""
    return HandTarget((x, y, z), fingers, palm, shape, swivel)


def _single_pose(hand: HandTarget, **more) -> GestureClass:
    """A gesture class whose hand takes one pose, at the stroke."""
    return GestureClass(((0.0, hand),), **more)


_SIDEWAYS = _mix((_FRONT, 1), (_UP, 0.25))
GESTURE_CLASSES: dict[str, GestureClass] = {
    "beat": GestureClass((
        (-0.12, _hand_at(0.20, 0.47, 0.30, _SIDEWAYS, _IN, "relaxed")),
        (0.06, _hand_at(0.20, 0.41, 0.32, _SIDEWAYS, _IN, "relaxed")),
    )),
    "beat-both": GestureClass((
        (-0.12, _hand_at(0.17, 0.46, 0.30, _SIDEWAYS, _mix((_IN, 1), (_UP, 0.4)))),
        (0.06, _hand_at(0.19, 0.40, 0.32, _SIDEWAYS, _mix((_IN, 1), (_UP, 0.4)))),
    ), is_two_handed=True),
    "big": GestureClass((
        (-0.2, _hand_at(0.14, 0.47, 0.30, _FORWARD_UP, _IN)),
        (0.1, _hand_at(0.31, 0.52, 0.29, _FORWARD_UP, _IN, swivel=0.7)),
    ), is_two_handed=True),
    "small": GestureClass(((0.0, _hand_at(0.13, 0.52, 0.33, _FORWARD_UP, _FRONT, "pinch")),), hold_s=0.35),
    "narrow": GestureClass((
        (-0.2, _hand_at(0.22, 0.46, 0.32, _FRONT, _IN, "flat")),
        (0.08, _hand_at(0.09, 0.46, 0.34, _FRONT, _IN, "flat")),
    ), is_two_handed=True),
    "one": _single_pose(_hand_at(0.20, 0.56, 0.30, _UP, _FRONT, "point"), hold_s=0.35),
    "two": _single_pose(_hand_at(0.20, 0.56, 0.30, _UP, _FRONT, "two"), hold_s=0.35),
    "three": _single_pose(_hand_at(0.20, 0.56, 0.30, _UP, _FRONT, "three"), hold_s=0.35),
    "four": _single_pose(_hand_at(0.20, 0.56, 0.30, _UP, _FRONT, "four"), hold_s=0.35),
    "five": _single_pose(_hand_at(0.21, 0.55, 0.30, _UP, _FRONT, "open"), hold_s=0.35),
    "all": GestureClass((
        (-0.25, _hand_at(0.10, 0.45, 0.33, _INWARD, _UP)),
        (0.15, _hand_at(0.30, 0.44, 0.31, _mix((_FRONT, 1), (_OUT, 0.35)), _UP, swivel=0.6)),
    ), is_two_handed=True, hold_s=0.3),
    "none": GestureClass((
        (-0.2, _hand_at(0.10, 0.46, 0.32, _FRONT, _DOWN, "flat")),
        (0.12, _hand_at(0.30, 0.46, 0.31, _mix((_FRONT, 1), (_OUT, 0.5)), _DOWN, "flat")),
    ), is_two_handed=True, head_move="shake"),
    "you": _single_pose(_hand_at(0.17, 0.47, 0.42, _FRONT, _mix((_UP, 1), (_IN, 0.5)), "open"), hold_s=0.25),
    "me": _single_pose(_hand_at(0.14, 0.50, 0.262, _mix((_IN, 1), (_UP, 0.35)), _BACK, "flat", 0.6), hold_s=0.25),
    "we": GestureClass((
        (-0.15, _hand_at(0.12, 0.48, 0.275, _mix((_IN, 1), (_UP, 0.2)), _BACK)),
        (0.12, _hand_at(0.30, 0.47, 0.32, _mix((_FRONT, 1), (_OUT, 0.4)), _mix((_UP, 1), (_IN, 0.6)))),
    ), is_two_handed=True),
    "here": GestureClass((
        (-0.12, _hand_at(0.16, 0.50, 0.32, _mix((_FRONT, 0.8), (_DOWN, 0.3)), _DOWN, "point")),
        (0.05, _hand_at(0.16, 0.42, 0.33, _mix((_FRONT, 0.7), (_DOWN, 0.9)), _mix((_IN, 0.5), (_DOWN, 1)), "point")),
    )),
    "there": _single_pose(
        _hand_at(
            0.31, 0.56, 0.32, _mix((_OUT, 0.45), (_FRONT, 1), (_UP, 0.2)), _mix((_DOWN, 1), (_FRONT, 0.2)),
            "point", 0.6,
        ),
        hold_s=0.3,
    ),
    "no": GestureClass((
        (-0.18, _hand_at(0.13, 0.56, 0.31, _UP, _FRONT, "point")),
        (0.0, _hand_at(0.19, 0.56, 0.32, _UP, _FRONT, "point")),
        (0.17, _hand_at(0.13, 0.56, 0.32, _UP, _FRONT, "point")),
    ), head_move="shake"),
    "yes": GestureClass((
        (-0.1, _hand_at(0.18, 0.46, 0.31, _FORWARD_UP, _IN, "relaxed")),
        (0.08, _hand_at(0.19, 0.41, 0.34, _FRONT, _UP, "open")),
    ), head_move="nod"),
    "question": GestureClass((
        (0.0, _hand_at(0.29, 0.44, 0.30, _mix((_FRONT, 1), (_OUT, 0.5), (_UP, 0.15)), _UP)),
    ), is_two_handed=True, head_move="tilt", hold_s=0.45),
    "list": GestureClass((
        (-0.15, _hand_at(0.19, 0.50, 0.30, _FORWARD_UP, _IN, "flat")),
        (0.02, _hand_at(0.19, 0.43, 0.33, _FRONT, _IN, "flat")),
        (0.3, _hand_at(0.24, 0.48, 0.31, _FORWARD_UP, _IN, "flat")),
        (0.45, _hand_at(0.25, 0.42, 0.33, _FRONT, _IN, "flat")),
    )),
    "contrast": GestureClass((
        (-0.15, _hand_at(0.15, 0.47, 0.31, _FORWARD_UP, _IN)),
        (0.1, _hand_at(0.30, 0.44, 0.32, _mix((_FRONT, 1), (_OUT, 0.6)), _UP, swivel=0.6)),
    )),
    "growth": GestureClass((
        (-0.25, _hand_at(0.20, 0.38, 0.31, _FRONT, _UP, "flat")),
        (0.2, _hand_at(0.22, 0.60, 0.31, _FORWARD_UP, _UP, "flat")),
    ), hold_s=0.3),
    "decline": GestureClass((
        (-0.25, _hand_at(0.21, 0.58, 0.31, _FRONT, _DOWN, "flat")),
        (0.2, _hand_at(0.22, 0.39, 0.33, _FRONT, _DOWN, "flat")),
    ), hold_s=0.3),
    "stop": _single_pose(_hand_at(0.17, 0.53, 0.38, _mix((_UP, 1), (_FRONT, 0.2)), _FRONT, "flat"), hold_s=0.4),
    "think": _single_pose(
        _hand_at(0.20, 0.62, 0.26, _mix((_UP, 1), (_IN, 0.35)), _mix((_IN, 1), (_BACK, 0.4)), "point", 0.7),
        hold_s=0.45,
    ),
    "feel": _single_pose(_hand_at(0.13, 0.53, 0.262, _mix((_IN, 1), (_UP, 0.5)), _BACK, "open", 0.6), hold_s=0.4),
    "past": GestureClass((
        (-0.2, _hand_at(0.22, 0.52, 0.30, _FORWARD_UP, _IN, "flat")),
        (0.12, _hand_at(0.30, 0.63, 0.20, _mix((_UP, 1), (_OUT, 0.25), (_BACK, 0.3)), _BACK, "flat", 0.8)),
    )),
    "future": GestureClass((
        (-0.2, _hand_at(0.18, 0.50, 0.25, _FORWARD_UP, _IN, "flat")),
        (0.15, _hand_at(0.18, 0.52, 0.43, _mix((_FRONT, 1), (_UP, 0.3)), _IN, "flat")),
    )),
    "together": GestureClass((
        (-0.25, _hand_at(0.28, 0.46, 0.30, _FRONT, _IN, "claw")),
        (0.12, _hand_at(0.075, 0.45, 0.33, _FORWARD_UP, _IN, "claw")),
    ), is_two_handed=True, hold_s=0.3),
    "apart": GestureClass((
        (-0.2, _hand_at(0.07, 0.45, 0.33, _FORWARD_UP, _IN, "flat")),
        (0.15, _hand_at(0.29, 0.45, 0.31, _FORWARD_UP, _OUT, "flat")),
    ), is_two_handed=True),
    "up": _single_pose(_hand_at(0.24, 0.68, 0.26, _mix((_UP, 1), (_FRONT, 0.2)), _IN, "point", 0.6), hold_s=0.3),
    "down": _single_pose(_hand_at(0.20, 0.42, 0.33, _mix((_DOWN, 1), (_FRONT, 0.5)), _BACK, "point"), hold_s=0.25),
    "exact": GestureClass((
        (-0.1, _hand_at(0.17, 0.54, 0.31, _FORWARD_UP, _FRONT, "ring")),
        (0.06, _hand_at(0.17, 0.48, 0.33, _FORWARD_UP, _FRONT, "ring")),
    ), hold_s=0.3),
    "strong": GestureClass((
        (-0.15, _hand_at(0.22, 0.52, 0.28, _UP, _IN, "fist")),
        (0.05, _hand_at(0.20, 0.46, 0.33, _mix((_UP, 1), (_FRONT, 0.6)), _IN, "fist")),
    )),
    "greet": GestureClass((
        (-0.25, _hand_at(0.25, 0.62, 0.26, _mix((_UP, 1), (_IN, 0.3)), _FRONT)),
        (-0.05, _hand_at(0.29, 0.62, 0.26, _mix((_UP, 1), (_OUT, 0.3)), _FRONT)),
        (0.15, _hand_at(0.25, 0.62, 0.26, _mix((_UP, 1), (_IN, 0.3)), _FRONT)),
        (0.35, _hand_at(0.29, 0.62, 0.26, _mix((_UP, 1), (_OUT, 0.3)), _FRONT)),
    )),
    "thank": GestureClass((
        (-0.1, _hand_at(0.12, 0.53, 0.262, _mix((_IN, 1), (_UP, 0.5)), _BACK, "flat", 0.6)),
        (0.3, _hand_at(0.18, 0.46, 0.38, _mix((_FRONT, 1), (_UP, 0.2)), _UP, "flat")),
    ), head_move="nod"),
    "begin": GestureClass((
        (-0.15, _hand_at(0.16, 0.45, 0.29, _FRONT, _DOWN, "relaxed")),
        (0.12, _hand_at(0.20, 0.47, 0.42, _FRONT, _UP)),
    )),
    "end": GestureClass((
        (-0.2, _hand_at(0.09, 0.52, 0.32, _FRONT, _DOWN, "flat")),
        (0.08, _hand_at(0.24, 0.40, 0.33, _mix((_FRONT, 1), (_OUT, 0.6)), _DOWN, "flat")),
    ), is_two_handed=True),
    "turn": GestureClass(tuple(
        (
            0.13 * k - 0.3,
            _hand_at(
                0.20 + 0.05 * np.cos(1.57 * k), 0.48 + 0.05 * np.sin(1.57 * k), 0.34, _FORWARD_UP, _IN, "point"
            ),
        )
        for k in range(6)
    )),
    "money": GestureClass(((0.0, _hand_at(0.18, 0.50, 0.32, _FORWARD_UP, _UP, "pinch")),), hold_s=0.4),
    "see": GestureClass((
        (-0.2, _hand_at(0.19, 0.66, 0.27, _mix((_UP, 1), (_IN, 0.3)), _BACK, "two", 0.6)),
        (0.12, _hand_at(0.22, 0.58, 0.40, _FRONT, _DOWN, "two", 0.6)),
    )),
}  # fmt: skip

# The words of each gesture class, in the languages that the reference motion knows.
_LEXICON_BY_CLASS: dict[str, str] = {
    "big": (
        "big huge large great wide enormous giant vast broad size world groß große grande grand énorme gran enorme"
    ),
    "small": "small little tiny few bit slightly brief klein kleine petit petite pequeño piccolo",
    "narrow": "narrow thin close tight short near eng étroit",
    "one": "one once single first ein eins un uno une",
    "two": "two both second twice pair zwei deux dos due",
    "three": "three third triple drei trois tres tre",
    "four": "four fourth vier quatre cuatro quattro",
    "five": "five fifth half-a-dozen fünf cinq cinco cinque",
    "all": (
        "all every everything everyone everybody whole entire total always complete alle alles ganz tout tous todo "
        "todos tutto tutti"
    ),
    "none": "nothing nobody none zero empty never nichts niemand nie rien jamais nada nunca niente mai",
    "you": "you your yours yourself du sie ihr dein vous tu votre usted tú lei voi",
    "me": "i me my mine myself ich mir mich mein je moi mon yo mi io mio",
    "we": "we us our ours ourselves wir uns unser nous notre nosotros nuestro noi nostro",
    "here": "here this these now today hier dieser jetzt ici maintenant aquí ahora qui adesso",
    "there": "there that those away far distant dort weg là-bas allí lejos là lontano",
    "no": "no not don't can't won't isn't cannot refuse wrong nein nicht kein non pas",
    "yes": "yes right sure agree indeed certainly true ok okay ja genau oui sí sì certo",
    "question": (
        "why what how who where when whether maybe perhaps unknown wonder warum was wie wer pourquoi comment por-qué "
        "cómo perché come chissà vielleicht"
    ),
    "list": (
        "then next also another several list many various dann auch viele puis aussi plusieurs luego también poi "
        "anche"
    ),
    "contrast": (
        "but however instead although though rather yet otherwise aber doch sondern mais pourtant pero sino ma però "
        "invece"
    ),
    "growth": (
        "grow grows growing growth more increase increasing rise rising improve better higher mehr wachsen besser "
        "plus grandir mieux más crecer mejor più crescere meglio"
    ),
    "decline": (
        "less fewer decrease fall falling drop lower worse decline reduce weniger fallen moins tomber menos caer meno "
        "cadere"
    ),
    "stop": "stop wait hold enough careful slow halt warte attendez arrêtez espera alto aspetta basta",
    "think": "think thought idea know remember believe understand mind denken idee penser idée pensar pensare sapere",
    "feel": "feel love heart happy sad proud hope afraid dear fühlen liebe aimer cœur sentir amor sentire amore",
    "past": "before ago yesterday past earlier old history früher gestern avant hier-soir ayer antes ieri prima",
    "future": (
        "will tomorrow later future soon forward ahead after morgen später demain bientôt mañana pronto domani "
        "presto"
    ),
    "together": "together join meet connect with share combine family friends zusammen ensemble juntos insieme",
    "apart": "apart separate divide split between different break getrennt séparé separar separato",
    "up": "up above high sky top mountain oben hoch haut arriba su sopra",
    "down": "down below under bottom low unten bas abajo giù sotto",
    "exact": "exactly precise precisely exact detail particular clearly point genau exact exacto esatto",
    "strong": "strong strength power must force hard work fight stark müssen fort fuerte forte devo",
    "greet": "hello hi welcome goodbye morning hallo willkommen bonjour bienvenue hola bienvenidos ciao benvenuti",
    "thank": "thank thanks please grateful danke bitte merci gracias grazie",
    "begin": (
        "begin begins start open opens introduce beginnen öffnen commencer ouvrir empezar abrir cominciare aprire"
    ),
    "end": "end finish finished close done last final ende fertig fin fini terminado fine finito",
    "turn": (
        "turn around round again wheel circle return repeat wieder drehen tourner encore girar otra-vez girare ancora"
    ),
    "money": "money pay price cost cheap expensive buy geld argent dinero soldi denaro",
    "see": "see look watch eyes view show sehen schau regarder voir mirar ver guardare vedere",
}  # fmt: skip
# Synonyms of lexicon words. The reference motion has no gesture for them, and only evaluation speaks them: they test
# whether the language prior generalizes to words that it was not trained on.
_HELD_OUT_BY_CLASS: dict[str, str] = {
    "big": "gigantic immense massive colossal",
    "small": "miniature minuscule compact",
    "narrow": "slender slim",
    "two": "couple double",
    "three": "trio",
    "all": "completely entirely",
    "none": "nil void",
    "there": "yonder remote elsewhere",
    "no": "reject deny incorrect",
    "yes": "absolutely definitely correct",
    "question": "curious uncertain puzzled",
    "list": "additionally furthermore besides",
    "contrast": "nevertheless nonetheless whereas alternatively",
    "growth": "expand climb boost enlarge",
    "decline": "shrink diminish plummet deteriorate",
    "stop": "pause cease hesitate",
    "think": "consider imagine ponder reflect",
    "feel": "emotion affection joy sorrow",
    "past": "formerly previously ancient",
    "future": "eventually upcoming shortly",
    "together": "unite gather merge",
    "apart": "detach divorce distinct",
    "up": "upward overhead ceiling",
    "down": "beneath underneath downward",
    "exact": "accurate specific",
    "strong": "powerful mighty tough",
    "greet": "greetings farewell",
    "thank": "appreciate gratitude",
    "begin": "launch commence initiate",
    "end": "conclude terminate",
    "turn": "rotate spin revolve",
    "money": "cash dollar salary purchase",
    "see": "observe glance stare",
}  # fmt: skip
HELD_OUT_WORDS: dict[str, str] = {word: name for name, words in _HELD_OUT_BY_CLASS.items() for word in words.split()}
LEXICON: dict[str, str] = {word: name for name, words in _LEXICON_BY_CLASS.items() for word in words.split()}
HEAD_MOVES: dict[str, str] = {name: gesture.head_move for name, gesture in GESTURE_CLASSES.items() if gesture.head_move}


def gesture_class_of(word: str) -> str | None:
    """Gesture class of a word, with or without punctuation around it; None for a word without a gesture."""
    return LEXICON.get(word.lower().strip(".,!?;:\"'()…¿¡"))


# Where the hands rest: targets of the left and of the right hand, both written as left hands.
REST_POSES: dict[str, tuple[HandTarget, HandTarget]] = {
    "together": (
        _hand_at(
            0.070, 0.395, 0.300, _mix((_IN, 1), (_FRONT, 0.25), (_DOWN, 0.25)), _mix((_BACK, 1), (_DOWN, 0.2)),
            "clasped", 0.55,
        ),
        _hand_at(
            0.075, 0.360, 0.252, _mix((_IN, 1), (_FRONT, 0.1), (_DOWN, 0.1)), _mix((_UP, 0.8), (_BACK, 0.7)),
            "clasped", 0.55,
        ),
    ),
    "apart": (
        _hand_at(0.175, 0.395, 0.280, _mix((_FRONT, 1), (_IN, 0.5)), _mix((_IN, 1), (_DOWN, 0.5)), "relaxed", 0.45),
    ) * 2,
    "low": (_hand_at(0.225, 0.215, 0.16, _mix((_FRONT, 0.6), (_DOWN, 1)), _IN, "relaxed", 0.4),) * 2,
    "sides": (_hand_at(0.245, 0.150, 0.040, _DOWN, _IN, "relaxed", 0.35),) * 2,
    "steeple": (_hand_at(0.062, 0.42, 0.29, _mix((_UP, 1), (_IN, 0.12), (_FRONT, 0.6)), _IN, "flat", 0.5),) * 2,
    "one-up": (
        _hand_at(0.15, 0.42, 0.285, _mix((_FRONT, 1), (_IN, 0.6)), _mix((_IN, 1), (_UP, 0.4)), "relaxed", 0.45),
        _hand_at(0.20, 0.25, 0.18, _mix((_FRONT, 0.7), (_DOWN, 1)), _IN, "relaxed", 0.4),
    ),
    "open": (
        _hand_at(
            0.215, 0.425, 0.28, _mix((_FRONT, 1), (_UP, 0.35), (_OUT, 0.1)), _mix((_IN, 1), (_UP, 0.3)),
            "relaxed", 0.4,
        ),
    ) * 2,
    "desk": (_hand_at(0.15, 0.355, 0.30, _mix((_FRONT, 1), (_IN, 0.55)), _DOWN, "relaxed", 0.5),) * 2,
}  # fmt: skip
