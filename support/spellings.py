r"""Of many ways to write an answer one, and which words behind a number are its unit.

    one_spelling    \dfrac12, ½ -> \frac{1}{2}; US$1,\!000, **1{,}000** -> 1000; x >= 5 -> x ≥ 5
    split_unit      5 cm^2, 60 miles per hour, 12 red apples -> 5, 60, 12; but 3 halves, 2 sin x
"""
import functools
import re
import unicodedata

# -------------------------------------------------------------------------------------------------
# Spellings. All texts are short here, so no pattern needs to be afraid of a hostile one.

NFKC = functools.partial(unicodedata.normalize, "NFKC")
SYMBOLS = str.maketrans({
    **dict.fromkeys("−–—‐‑‒―", "-"), **dict.fromkeys("×·⋅∙∗", "*"), **dict.fromkeys("°º˚", "°"),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad`\"“”"), "÷": "/", "⁄": "/", "∕": "/",
    "π": r"\pi ", "∞": r"\infty ", "±": r"\pm ", "∪": r"\cup ", "θ": r"\theta ",
})
SPELLINGS = [(re.compile(pattern, re.S), spelling) for pattern, spelling in [
    # **12** in Markdown; \\frac, where a backslash came twice
    (r"(?<![\w)}*])(\*\*?|__)(?=\S)([^*_]+)(?<=\S)\1(?![\w({*])", r"\2"),
    (r"\\\\(?=(?:[dtc]?frac|sqrt|left|right|text|pi|infty|cdot|times)(?![a-z]))", r"\\"),
    (r"√\s*([0-9]+)", r"\\sqrt{\1}"), ("√", r"\\sqrt "),
    # 5\mathrm{ N} has a unit, 2\mathbf{v} a vector
    (r"(?<=[0-9}])(?:\s|~|\\[,;: ])*\\(?:text|mathrm|mbox)\{\s*[acfjknvw]\s*\}", " units "),
    (r"\\(?:text|math(?:rm|it|sf)|[mh]box|underline|operatorname)[a-z]*\s*\{([^{}]*)\}", r" \1 "),
    (r"\\(?:mathbf|boldsymbol|bm)\s*\{([^{}a-z]*|\([a-z]\))\}", r"\1"),
    (r"\\(?:boxed|fbox|text|mathrm|mbox)(?=\s*\{)|\\(?:left|right)\.|\\hspace\*?\{[^{}]*\}", ""),
    # 1,\!000 and 1{,}000
    (r"(?<=[0-9])\s*(?:,\s*\\!|\{,\s*\})\s*(?=[0-9]{3}(?![0-9]))|\\!", ""),
    # 1,\;000 and 1,~234, where nothing stands before
    (r"^([-$\\\s]*[0-9]{1,3}),(?:\\[,;:]|~)\s*(?=[0-9]{3}(?![0-9]))", r"\1"),
    # sets, and an "and"
    (r"\\lbrace(?![a-z])", r"\\{"), (r"\\rbrace(?![a-z])", r"\\}"),
    (r"\\(?:emptyset|varnothing)(?![a-z])|∅|\\\{\s*\\\}", r"\\{\\}"),
    (r"(?<!\\)\\&|(?<=,)\s*&", " and "),
    # money, percent, degrees
    (r"(?<![a-z])(?:u\.?s\.?|au|ca|nz|hk)\s*(?=\\?\$|dollar)|(?<![a-z$\\])[ac](?=\\?\$[0-9])", ""),
    (r"(?<![a-z])(?:usd|eur|gbp|rs\.?)\s*(?=[0-9])", ""),
    (r"\\?[$%£€¥₹¢]|(?:°|\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree)\s*(?:[cf](?![a-z]))?", " "),
    # layout
    (r"~|(?<!\\)\\[,:; ()\[\]]|"
     r"\\(?:left|right|bigg?[lr]?|q?quad|(?:display|text)style)(?![a-z])", " "),
    (r"\\[dtc]frac(?![a-z])", r"\\frac"),
    (r"\\(?:times|cdot)(?![a-z])", "*"),
    (r"\\(?:cup|lor|vee)(?![a-z])", " or "),
    (r"\+/?-", r"\\pm "),
    # signs between two sides
    (r"\\leq?(?:slant)?(?![a-z])|<=|=<", "≤"), (r"\\geq?(?:slant)?(?![a-z])|>=|=>", "≥"),
    (r"\\neq?(?![a-z])|\\not\s*=|!=", "≠"), (r"\\lt(?![a-z])", "<"), (r"\\gt(?![a-z])", ">"),
    (r"\\in(?![a-z])", "∈"), (r"\\approx(?![a-z])", "≈"),
    # matrices: an array in brackets is one, too; \\[2pt], and \\ behind the last row
    (r"[(\[]\s*\\begin\{(array|(?:small)?matrix)\}(?:\s*\{[clr|\s]*\})?(.*?)\\end\{\1\}\s*[)\]]",
     r"\\begin \2\\end "),
    (r"\\(begin|end)\{[pb]?(?:small)?matrix\}", r"\\\1 "),
    (r"\\\\\s*\[[0-9.]*(?:pt|e[mx])\]", r"\\\\"),
    (r"\\\\\s*(?=\\end(?![a-z]))", ""),
    (r"(?<=\{)\s+|\s+(?=[{}])", ""),
    # \frac12, then \frac{1}2; x^2, 10^-3
    (r"(\\frac|\\sqrt(?:\[[2-9]\])?)(?![a-z])\s*([0-9a-z])", r"\1{\2}"),
    (r"(\\frac\{(?:[^{}]|\{[^{}]*\})*\})\s*([0-9a-z])", r"\1{\2}"),
    (r"(?<=[\^_])\s*(-?[0-9]+|[a-z])", r"{\1}"),
]]


def one_spelling(text):
    """The text in small letters, in one of its spellings; all of them are equal answers."""
    text = re.sub("[⁰¹²³⁴-⁹⁺⁻]+", r"^{\g<0>}", text)
    text = re.sub("[₀-₉]+", r"_{\g<0>}", text)
    text = re.sub("[¼-¾⅐-⅞]", lambda match: r"\frac " + NFKC(match[0]).replace("⁄", " "), text)
    text = NFKC(text.translate(SYMBOLS)).translate(SYMBOLS).lower()
    for pattern, spelling in SPELLINGS:
        text = pattern.sub(spelling, text)
    return text.strip(" \n*").rstrip(".")


# -------------------------------------------------------------------------------------------------
# Units

KNOWN = set("""
    m cm mm km nm dm in inch ft foot feet yd yard mi mile meter metre square sq cubic cu unit
    acre hectare ha l ml dl cl liter litre cup gallon gal pint quart tablespoon teaspoon tbsp tsp
    g kg mg gram lb pound ounce oz ton tonne
    s sec second min minute h hr hour day week month year yr decade century centuries
    mph kph kmh mps bit byte kb mb gb hz hertz
    dollar cent euro buck penny pennies pence peso rupee yen yuan usd eur gbp
    degree deg radian rad celsius fahrenheit kelvin percent percentage pct point
    joule watt volt newton amp ohm pascal calorie cal kcal kw kwh mol mole
    people person child children man men woman women mice geese fish sheep deer
    time way unit item per an of the total left each altogether remaining
""".split())
PREFIX = re.compile("(?:kilo|centi|milli|deci|micro|nano|mega|giga|hecto)(?=[a-z]{3})")
OTHER_VALUES = re.compile(
    r"\b(?:half|halve|third|quarter|(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|[a-z]+teen|"
    r"[a-z]+tie|hundred|thousand|[a-z]*illion)th|hundred|thousand|[a-z]*illion|dozen|gross|one|two|"
    r"three|four|five|six|seven|eight|nine|ten|nth|radical|plus|minus|less|over|"
    r"divided|multiplied|by|choose|factorial|squared|cubed|power|"
    r"root(?!s$)|sqrt|base|mod|modulo|[a-z]*(?:sin|cos|tan|cot|csc|sine|tangent)h?|log|ln|exp|"
    r"equal|not|"
    r"is|than|to|or|and|pi|infinity|north|south|east|west|above|below|am|pm)s?\b")
WORDS = re.compile(
    r"(?<![\\a-z])(?:(?<=[0-9}])/(?=[a-z]{3}|hr|kg|lb))?(?!(?:pi|i)(?![a-z]))"
    r"[a-z](?:[a-z./*\s-]|\^\{-?[0-9]\})*$")


def known(word):
    """Whether a word is a unit of the list, in its singular or plural, or with a prefix."""
    word = PREFIX.sub("", word)
    return bool({word, word.removesuffix("s"), word.removesuffix("es")} & KNOWN)


def split_unit(text):
    """(what stands before the unit, the unit); the unit is "" if the text ends in none.

    >>> split_unit("5 cm^{2}"), split_unit("12 red apples"), split_unit("5 plus x")
    (('5', 'cm^{2}'), ('12', 'red apples'), ('5 plus x', ''))
    """
    found = WORDS.search(text)
    if not found or not found.start():
        return text, ""
    unit, before = found[0].strip(), text[:found.start()].rstrip()
    words = re.findall("[a-z]+", unit)
    # m/s and J/K
    strange = [word for word in words if not known(word) and not ("/" in unit and len(word) == 1)]
    last = (strange or [""])[-1]
    plural = last.endswith("s") and not last.endswith(("ss", "us", "is"))
    counted = (re.fullmatch(r"[a-z]+(?:\s+[a-z]+){0,3}", unit) and len(strange) < 3
               and all(len(word) > 2 for word in strange)
               and (plural or before == "1" or known(words[0])))
    # 5cm, but 5m is a product
    product = before == text[:found.start()] and (strange or len(words[0]) < 2)
    if product or OTHER_VALUES.search(unit) or {*words} <= {"per", "an", "of", "the"}:
        return text, ""
    return (before, unit) if not strange or counted else (text, "")
