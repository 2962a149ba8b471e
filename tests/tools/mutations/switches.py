# SPDX-License-Identifier: MIT
"""Puts many mutants into one copy of a header, to be chosen when a program runs.

The expression around a change, E, becomes (batchnorm_mutant(7) ? (E changed) : (E)), so that a test
is compiled once for all mutants.
"""
import re

TOKEN = re.compile(r"0[xX][\w.]*[pP][-+]\d+|\d[\d.]*[eE][-+]\d+|\d[\w.]*|\w+|::|->|"
                   r"[-+*/%&|^<>=!]=|<<|>>|&&|\|\||\+\+|--|\S")
OPENING = {"(": ")", "[": "]", "{": "}"}
CLOSING = set(OPENING.values())
ASSIGNMENTS = {"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^="}
# What no expression reaches across, where it is not in brackets of its own.
ENDS = {";", ",", "?", ":"}
STARTS = ENDS | ASSIGNMENTS | {"return", "else", "case", "throw"}


def tokens_of(text):
    return [(m.group(), m.start(), m.end()) for m in TOKEN.finditer(text)]


def masked(text):
    """The text with its comments and preprocessor lines blank, of the same length."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match.group())
    text = re.sub(r"//[^\n]*", blank, text)
    return re.sub(r"^#[^\n]*", lambda m: ";" + blank(m)[1:], text, flags=re.M)


def unmatched(tokens):
    """How many brackets in tokens close without an opening one, and open without a closing one."""
    closing, opening = 0, 0
    for token in tokens:
        if token in OPENING:
            opening += 1
        elif token in CLOSING and opening:
            opening -= 1
        elif token in CLOSING:
            closing += 1
    return closing, opening


def change(original, mutated):
    """(begin, end, text): what of `original` becomes which text, brackets in pairs."""
    a, b = tokens_of(original), tokens_of(mutated)
    x, y = [t[0] for t in a], [t[0] for t in b]
    head, tail, most = 0, 0, min(len(a), len(b))
    while head < most and x[head] == y[head]:
        head += 1
    while tail < most - head and x[-1 - tail] == y[-1 - tail]:
        tail += 1
    while True:
        sides = [unmatched(x[head:len(x) - tail]), unmatched(y[head:len(y) - tail])]
        if head > 0 and any(closing for closing, _ in sides):
            head -= 1
        elif tail > 0 and any(opening for _, opening in sides):
            tail -= 1
        else:
            break

    def span(tokens, text):
        last = len(tokens) - tail
        begin = tokens[head][1] if head < len(tokens) else len(text)
        return begin, tokens[last - 1][2] if last > head else begin
    begin, end = span(a, original)
    changed_begin, changed_end = span(b, mutated)
    return begin, end, " " + mutated[changed_begin:changed_end] + " "


def expression_around(tokens, begin, end):
    """(begin, end, whether it is a whole statement) of the expression that holds [begin, end)."""
    names = [t[0] for t in tokens]
    first = next((i for i, t in enumerate(tokens) if t[2] > begin), len(tokens))
    last = next((i for i, t in enumerate(tokens) if t[1] >= end), len(tokens))  # one past
    if begin == end:
        last = first
    depth, i = 0, first - 1
    while i >= 0:
        token = names[i]
        following = names[i + 1] if i + 1 < len(names) else ";"
        if token in CLOSING:
            # The head or the end of another statement, or a part of this expression?
            is_new = re.match(r"\w|\+\+|--", following) or (token == "}" and following in "(*&")
            if depth == 0 and is_new:
                break
            depth += 1
        elif token in OPENING:
            if depth == 0:
                break
            depth -= 1
        elif depth == 0 and token in STARTS:
            break
        i -= 1
    left, boundary = i + 1, names[i] if i >= 0 else ";"
    depth, j = 0, last
    while j < len(names):
        if names[j] in OPENING:
            depth += 1
        elif names[j] in CLOSING:
            if depth == 0:
                break
            depth -= 1
        elif depth == 0 and names[j] in ENDS:
            break
        j += 1
    is_statement = (boundary in {";", "{", "}", ")", "else"} and names[j] == ";" and
                    enclosing(names, left) == "{")
    return tokens[left][1], tokens[j - 1][2], is_statement


def enclosing(names, i):
    """The bracket that token i lies in."""
    depth = 0
    for token in reversed(names[:i]):
        if token in CLOSING:
            depth += 1
        elif token in OPENING:
            if depth == 0:
                return token
            depth -= 1
    return "{"


def outside_brackets(text):
    depth, outside = 0, []
    for token, _, _ in tokens_of(text):
        depth -= token in CLOSING
        if depth == 0:
            outside.append(token)
        depth += token in OPENING
    return outside


def with_switches(text, changes):
    """`text`, where each of changes, (number, original, mutated), can be switched on."""
    tokens = tokens_of(masked(text))
    spans = []
    for number, original, mutated in changes:
        at = text.index(original)
        begin, end, new = change(original, mutated)
        left, right, is_statement = expression_around(tokens, at + begin, at + end)
        outside = outside_brackets(text[left:right])
        if "," in outside or outside.count("?") != outside.count(":"):
            raise ValueError(f"mutant {number} changes more than one expression")
        spans.append((left, right, is_statement, at + begin, at + end, new, number))
    groups = []
    for span in sorted(spans, key=lambda s: (s[0], -s[1])):
        if groups and span[0] < groups[-1][0][1]:
            if span[1] > groups[-1][0][1]:
                raise ValueError(f"mutants {groups[-1][0][-1]} and {span[-1]} overlap")
            groups[-1].append(span)
        else:
            groups.append([span])
    for group in reversed(groups):
        left, right, is_statement = group[0][:3]
        cast = "void" if is_statement else ""
        whole = "("
        for _, _, _, begin, end, new, number in group:
            changed = text[left:begin] + new + text[end:right]
            whole += f"\nbatchnorm_mutant({number}) ? {cast}({changed}) :"
        text = f"{text[:left]}{whole} {cast}({text[left:right]}))\n{text[right:]}"
    return text
