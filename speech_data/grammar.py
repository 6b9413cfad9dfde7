"""What the synthesised corpus says: commands with an intent and slots, and plain sentences without one.

A template is a line of words. `{room}` stands for a word of the lexicon, none drawn twice in a sentence; if
it is one of `SLOTS`, its value is a label. `[now|please|]` stands for one of the alternatives, perhaps empty.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache

NO_INTENT = "none"

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
"""Words to spot. Their times are in the word labels."""

UNKNOWN_WORD, NO_WORD = "unknown", "silence"
KEYWORD_CLASSES = (*KEYWORDS, UNKNOWN_WORD, NO_WORD)
"""What a clip of a word is: a keyword, another word, or no word at all."""


def _words(text: str) -> tuple[str, ...]:
    """The entries of a comma-separated list; an entry may be several words."""
    return tuple(" ".join(entry.split()) for entry in text.split(","))


SLOTS = _words("artist, city, colour, contact, day, device, duration, food, genre, level, place, room, task, time")
"""Lexicon entries whose value is a label."""

LEXICON: dict[str, tuple[str, ...]] = {
    # slots
    "artist": _words(
        """
        maria fields, the silver foxes, johnny vale, the paper boats, rosa quint, jazz machine, victor and
        the waves, golden hour, miss ivy, the young giants, otis marsh, cloud nine, ruby thorn, the usual
        """
    ),
    "city": _words(
        """
        london, paris, boston, madrid, geneva, chicago, oxford, dublin, vienna, sydney, tokyo, cairo,
        brighton, houston, leeds, york, bath, perth, jakarta, warsaw, lisbon, prague, milan, oslo, zurich
        """
    ),
    "colour": _words(
        """
        red, blue, green, yellow, purple, orange, white, pink, beige, turquoise, gold, violet
        """
    ),
    "contact": _words(
        """
        alice, george, martha, doctor shaw, my mother, uncle joe, thomas, chloe, the office, zoe, hugh, my
        brother, jennifer, peter wright, sophie, the dentist, aunt joyce, david young, charlie, ruth
        """
    ),
    "day": _words(
        """
        monday, tuesday, wednesday, thursday, friday, saturday, sunday, today, tomorrow, tonight, next week,
        this weekend, the fifth of may, the third of june, the first of august
        """
    ),
    "device": _words(
        """
        lights, lamp, ceiling light, fan, television, radio, heater, kettle, blinds, speaker, oven
        """
    ),
    "duration": _words(
        """
        five minutes, ten minutes, half an hour, two hours, twenty seconds, an hour, forty minutes, ninety
        seconds, three quarters of an hour, twelve minutes, six hours, fifteen minutes
        """
    ),
    "food": _words(
        """
        apples, oranges, brown bread, cheese, orange juice, eggs, butter, fish, rice, sugar, yoghurt,
        coffee, green tea, garlic, mushrooms, olive oil, honey, onions, chocolate, washing powder
        """
    ),
    "genre": _words(
        """
        jazz, rock, classical, folk, reggae, dance, country, piano, opera, blues, hip hop, soul
        """
    ),
    "level": _words(
        """
        eighteen, nineteen, twenty, twenty one, twenty two, sixteen, fifteen, ten, thirty, forty five,
        sixty, seventy, eighty, ninety
        """
    ),
    "place": _words(
        """
        the airport, the station, the beach, the nearest bank, the hospital, the library, the museum, church
        street, the old bridge, victoria park, the zoo, the garage, the theatre, the fish market, the
        harbour
        """
    ),
    "room": _words(
        """
        kitchen, bedroom, living room, bathroom, hallway, garden, garage, office, nursery, attic, dining
        room, cellar
        """
    ),
    "task": _words(
        """
        water the plants, feed the cat, pay the rent, wash the car, buy stamps, ring the school, fetch the
        parcel, change the sheets, book the vet, clean the oven, take the pills, charge the phone
        """
    ),
    "time": _words(
        """
        seven, half past eight, nine thirty, noon, midnight, a quarter to six, five fifteen, ten past two,
        eleven, four in the afternoon, six in the morning, twenty to three, one o'clock, eight in the
        evening
        """
    ),
    # plain words
    "name": _words(
        """
        anna, jack, olivia, theo, ursula, ian, beth, carl, daisy, ethan, fiona, gary, heather, isaac, joyce,
        keith, laura, matthew, nathan, oscar, paul, quentin, rachel, simon, tara, vera, walter, yusuf, zara
        """
    ),
    "adjective": _words(
        """
        quiet, rough, yellow, tiny, enormous, careful, lazy, bright, hollow, frozen, gentle, noisy, shallow,
        ancient, curious, dusty, faithful, golden, humble, idle, jolly, keen, loyal, muddy, narrow, odd,
        patient, royal, silent, thick, usual, vague, wise, young, crazy, brave, cheap, thirsty, smooth,
        sharp, beige, foreign, broken, clever, private, spoiled, square, strange, joyful, weary, purple,
        northern, casual, loud, awkward
        """
    ),
    "noun": _words(
        """
        river, teacher, window, garden, engine, mother, soldier, village, orange, thief, bishop, judge,
        measure, treasure, vision, machine, shoulder, butcher, feather, leather, voyage, kitchen, hammer,
        ladder, picture, question, shadow, theory, uncle, valley, whistle, yard, zebra, bottle, candle,
        donkey, elephant, farmer, guitar, horse, island, jacket, king, lemon, mountain, needle, oyster,
        pocket, queen, rabbit, sailor, tower, umbrella, violin, winter, youth, boy, coin, noise, choice,
        cloud, mouse, house, crowd, bird, nurse, church, world, book, wood, foot, pudding, goose, moon,
        shoe, school, father, palm, heart, ship, fish, pig, bed, egg, desk, cat, lamp, hand, dog, rock,
        clock, ball, horn, door, cup, bus, lunch, face, train, plane, bike, child, knife, boat, road, stone,
        beard, deer, chair, bear, tour, path, bench, cloth, tooth, song, ring, thing, singer, finger,
        garage, decision, pleasure, division, explosion, jungle, bridge, village, message, sausage
        """
    ),
    "verb": _words(
        """
        followed, watched, painted, carried, pushed, borrowed, measured, noticed, opened, finished, enjoyed,
        avoided, joined, chased, touched, reached, washed, admired, offered, guarded, hated, loved, moved,
        sold, found, caught, bought, thought about, laughed at, looked at, shouted at, waited for, argued
        with, gave away, threw out, picked up, put down, took off, left behind, heard, saw, knew, drew,
        shook, pulled, counted, drove, described, examined, forgave, ignored, judged, kicked, lifted,
        mended, needed, ordered, praised, questioned
        """
    ),
    "adverb": _words(
        """
        slowly, quickly, always, never, often, gladly, badly, twice, quietly, suddenly, usually, hardly,
        bravely, calmly, early, firmly, gently, happily, rarely, soon, truly, vaguely, warmly, yearly,
        casually
        """
    ),
    "preposition": _words(
        """
        near, behind, under, above, beside, without, inside, beyond, through, towards, across, before,
        after, over, around, between the road and
        """
    ),
    "number": _words(
        """
        two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, forty, fifty, sixty,
        a hundred, a thousand
        """
    ),
    "plural": _words(
        """
        rivers, teachers, windows, gardens, horses, judges, bridges, feathers, boys, voices, clouds, books,
        shoes, fathers, ships, fishes, eggs, cats, lamps, dogs, clocks, doors, cups, lunches, faces, trains,
        boats, stones, bears, paths, teeth, songs, fingers, garages, decisions, messages, churches, thieves,
        wolves, leaves
        """
    ),
    "season": _words(
        """
        spring, summer, autumn, winter, the morning, the evening, january, july, october, the rain
        """
    ),
}

TEMPLATES: dict[str, tuple[str, ...]] = {
    "switch_on": (
        "[please |]turn on the {room} {device}[ now| please|]",
        "[could you |can you |]switch the {device} on in the {room}",
        "i want the {room} {device} on[ at {time}| right now|]",
    ),
    "switch_off": (
        "[please |]turn off the {room} {device}[ now| please|]",
        "[could you |can you |]switch the {device} off in the {room}",
        "no one needs the {room} {device}[ until {time}|] so turn it off",
    ),
    "set_colour": (
        "make the {room} {device} {colour}[ please| until {time}|]",
        "[could you |]change the colour of the {device} in the {room} to {colour}",
        "i would like {colour} light in the {room}[ tonight| please|]",
    ),
    "set_level": (
        "set the {room} {device} to {level} [percent|degrees][ please|]",
        "turn the {device} [up|down] to {level} in the {room}",
        "[please |]bring the {device} in the {room} [up|down] to {level}",
    ),
    "play_music": (
        "play [some |]{genre} by {artist}[ in the {room}|]",
        "[could you |please |]put on {artist} in the {room}",
        "go on with {genre}[ music|] by {artist}[ please|]",
        "stop this and play {genre} in the {room}",
    ),
    "set_alarm": (
        "wake me up at {time} on {day}[ please|]",
        "set an alarm for {time} {day}[ in the {room}|]",
        "[please |]remind me at {time} to {task}",
    ),
    "set_timer": (
        "[start|set] a timer for {duration}[ in the {room}| please|]",
        "stop the {device} in the {room} after {duration}",
        "tell me when {duration} have gone so i can {task}",
    ),
    "ask_weather": (
        "what will the weather be [like |]in {city} {day}",
        "will it [rain|snow|freeze|be sunny] in {city} {day}[ at {time}|]",
        "do i need [an umbrella|a coat|my boots] in {city} {day}",
    ),
    "call": (
        "[please |]call {contact}[ on the {room} phone| at {time}| now|]",
        "ring {contact} [back |]{day} at {time}",
        "i need to speak to {contact} [before {time}|about {day}|right away]",
    ),
    "send_message": (
        "send a message to {contact} saying [yes|no|i am late|see you {day}|i will {task}]",
        "tell {contact} [that |]i will be [there|home|in {city}] at {time}",
        "ask {contact} to {task}[ {day}|]",
    ),
    "navigate": (
        "how do i get to {place} in {city}[ by {time}|]",
        "[please |]take me to {place}[ on the left| and go right| and stop]",
        "drive from {place} to {place} and be there by {time}",
        "is {place} on the left or on the right of {place}",
    ),
    "buy": (
        "add {food} and {food} to the [shopping list|basket|order]",
        "[please |]order [some |more |]{food} for {day}[ at {time}|]",
        "we have no {food} left so buy [some |more |]{food}",
    ),
    NO_INTENT: (
        "the {adjective} {noun} {verb} the {adjective} {noun}",
        "{name} {verb} one {adjective} {noun} {preposition} the {noun}",
        "{name} and {name} {adverb} {verb} the {noun}",
        "{number} {adjective} {plural} {verb} the {noun}",
        "in {season} the {noun} {adverb} {verb} {number} {plural}",
        "[yes|no] {name} {verb} the {plural} {preposition} the {noun}",
        "why did {name} say the {noun} was {adjective}",
        "there were {number} {plural} {preposition} the {adjective} {noun}",
        "{name} went [up|down|left|right] to see the {noun} {preposition} the {noun}",
        "every {noun} [is|was] {adverb} {adjective} in {season}",
        "did {name} stop or go on when the {noun} {verb} the {noun}",
        "my {noun} [on|off] the {noun} looks {adjective}",
        "{plural} and {plural} make {adjective} {plural}",
    ),
}

INTENTS = tuple(sorted(TEMPLATES))
PHRASES_EACH = 6
"""Commands of an intent that are said over and over."""
MAX_PHRASE_WORDS = 8

SHORT_TEMPLATES = (
    "{name} [never |always |]{verb} the {noun}",
    "the {adjective} {noun} {verb} {name}",
    "{number} {adjective} {plural} {verb} {name}",
    "{name} {adverb} {verb} the {plural}",
    "my {noun} [is|was|looks] {adjective} [today|tonight|again]",
    "{plural} and {plural} are {adjective}",
    "{name} saw {number} {plural} {preposition} the {noun}",
    "call {contact} [before|after|at] {time}",
    "[is|was] the {device} in the {room}",
    "we need {food} and {food}",
)
"""Plain sentences of about six words, to tell speakers by."""

_ALTERNATIVES = re.compile(r"\[([^\]]*)\]")
_ENTRY = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Sentence:
    """A sentence and what it means."""

    text: str
    """Lower-case words separated by single blanks."""
    intent: str
    slots: tuple[tuple[str, str], ...]
    """(slot, value) in the order in which they are said."""


def other_words() -> tuple[str, ...]:
    """The single words of the lexicon that are no keywords, sorted."""
    entries = {entry for entries in LEXICON.values() for entry in entries}
    return tuple(sorted(entry for entry in entries if entry.isalpha() and entry not in KEYWORDS))


def draw_sentence(intent: str, rng: random.Random) -> Sentence:
    """One random sentence with an intent of `INTENTS`."""
    return _fill(rng.choice(TEMPLATES[intent]), intent, rng)


def draw_short_sentence(rng: random.Random) -> Sentence:
    """One random sentence of `SHORT_TEMPLATES`, without an intent."""
    return _fill(rng.choice(SHORT_TEMPLATES), NO_INTENT, rng)


@cache
def command_phrases() -> tuple[Sentence, ...]:
    """A few short commands of each intent but `none`, always the same."""
    rng = random.Random("command phrases")
    phrases: dict[str, Sentence] = {}
    for intent in INTENTS:
        most = len(phrases) + (0 if intent == NO_INTENT else PHRASES_EACH)
        while len(phrases) < most:
            sentence = draw_sentence(intent, rng)
            if len(sentence.text.split()) <= MAX_PHRASE_WORDS:
                phrases[sentence.text] = sentence
    return tuple(phrases.values())


def _fill(template: str, intent: str, rng: random.Random) -> Sentence:
    """The template with its alternatives and entries drawn."""
    drawn: list[tuple[str, str]] = []

    def draw_word(match: re.Match[str]) -> str:
        entry = match.group(1)
        value = rng.choice([word for word in LEXICON[entry] if (entry, word) not in drawn])
        drawn.append((entry, value))
        return value

    # Alternatives first: they may hold entries of the lexicon.
    template = _ALTERNATIVES.sub(lambda match: rng.choice(match.group(1).split("|")), template)
    text = " ".join(_ENTRY.sub(draw_word, template).split())
    return Sentence(text, intent, tuple((entry, value) for entry, value in drawn if entry in SLOTS))
