"""The changes: what may be wrong in a line of Python, as edits of its syntax tree."""

import ast
import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

_COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_CALLED = {"min": "max", "any": "all", "minimum": "maximum", "argmin": "argmax", "sorted": "list"}
_CALLED |= {"max": "min", "all": "any", "maximum": "minimum"}
# Where nothing is computed when the code runs.
_FIELDS_SKIPPED = ("annotation", "returns", "decorator_list", "type_params", "bases")
# Imports, and checks of our own mistakes, which cannot fail where the rest is right.
_NODES_SKIPPED = (ast.Assert, ast.Import, ast.ImportFrom)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of a file.

    Attributes:
        line: where it is.
        lines: of what changes, and of the head of its statement if that has none.
        function: qualified name of what it is in, empty for the module.
        on_import: whether it runs when the module is imported: a constant, a field, a default.
        change: before and after, as source.
        where: node, field and place in it (None where the field is no list) that is replaced.
        new: what it is replaced with.
    """

    line: int
    lines: tuple[range, range]
    function: str
    on_import: bool
    change: str
    where: tuple[ast.AST, str, int | None]
    new: ast.AST

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Change the tree, and undo it."""
        owner, field, i = self.where
        old = getattr(owner, field)
        setattr(owner, field, self.new if i is None else [*old[:i], self.new, *old[i + 1 :]])
        try:
            yield
        finally:
            setattr(owner, field, old)


def mutants(tree: ast.Module) -> list[Mutant]:
    """Return every change of a module, in the order of its lines."""
    place = _Place(tree, "", messages=False, on_import=True)
    return sorted(_below(tree, place), key=lambda mutant: mutant.line)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a node stands.

    Attributes:
        statement: what it is part of.
        function: qualified name of what that is in.
        messages: whether strings are said to people: in a ``raise``, or in an f-string.
        on_import: as in `Mutant`.
    """

    statement: ast.AST
    function: str
    messages: bool
    on_import: bool

    def inside(self, node: ast.AST) -> "_Place":
        """Return the place of what is below a node of this place."""
        found = self
        if isinstance(node, ast.stmt):
            found = replace(found, statement=node)
        match node:
            case ast.FunctionDef():
                name = f"{self.function}.{node.name}".lstrip(".")
                return replace(found, function=name, on_import=False)
            case ast.ClassDef():
                name = f"{self.function}.{node.name}".lstrip(".")
                return replace(found, function=name, on_import=True)
            case ast.arguments():
                return replace(found, on_import=True)
            case ast.Raise() | ast.JoinedStr():
                return replace(found, messages=True)
            case _:
                return found


def _below(node: Any, place: _Place) -> Iterator[Mutant]:
    for field, value in ast.iter_fields(node):
        several = isinstance(value, list)
        children: list[Any] = value if several else [value]
        for i, child in enumerate(children):
            if field in _FIELDS_SKIPPED or not isinstance(child, ast.AST) or _is_skipped(child):
                continue
            inner = place.inside(child)
            for new in _changed(node, field, child, inner.messages):
                if _shown(new) == _shown(child):
                    continue  # twice nothing, and `while True`
                yield Mutant(
                    line=_lines(child).start,
                    lines=(_lines(child), _lines(inner.statement)),
                    function=inner.function,
                    on_import=inner.on_import,
                    change=f"{_shown(child)} -> {_shown(new)}",
                    where=(node, field, i if several else None),
                    new=ast.copy_location(new, child),
                )
            yield from _below(child, inner)


def _is_skipped(node: ast.AST) -> bool:
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return docstring or isinstance(node, _NODES_SKIPPED)


def _lines(node: Any) -> range:
    """Return the lines of an expression, or of the head of a statement."""
    body = getattr(node, "body", None) or getattr(node, "cases", None)
    last = getattr(body[0], "lineno", node.lineno + 1) - 1 if isinstance(body, list) else None
    return range(node.lineno, max(node.lineno, node.end_lineno if last is None else last) + 1)


def _shown(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(node))


def _changed(owner: ast.AST, field: str, node: Any, said: bool) -> Iterator[ast.AST]:
    """Yield what may stand at a node's place."""
    if field in ("test", "ifs"):
        yield ast.Constant(True)
        if field == "test":
            yield ast.Constant(False)
    match node:
        case ast.Compare():
            for i, op in enumerate(node.ops):
                # Its opposite is one of the two constants where it decides alone.
                news = _COMPARED[type(op)]
                for new in news[:-1] if field == "test" and len(node.ops) == 1 else news:
                    yield _with(node, ops=[*node.ops[:i], new(), *node.ops[i + 1 :]])
        case ast.BinOp() | ast.AugAssign() if type(node.op) in _COMPUTED:
            yield _with(node, op=_COMPUTED[type(node.op)]())
        case ast.BoolOp():
            yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
            for i in range(len(node.values)):
                rest = [*node.values[:i], *node.values[i + 1 :]]
                yield _with(node, values=rest) if len(rest) > 1 else rest[0]
        case ast.UnaryOp():
            yield node.operand
        case ast.Call():
            match node.func:
                case ast.Name(id=name) if name in _CALLED:
                    yield _with(node, func=_with(node.func, id=_CALLED[name]))
                case ast.Attribute(attr=name) if name in _CALLED:
                    yield _with(node, func=_with(node.func, attr=_CALLED[name]))
            # What a class of ours is made of has no defaults, but an error has.
            fields = not said and _shown(node.func).rpartition(".")[2][0].isupper()
            for i, keyword in enumerate(node.keywords):
                if not fields and keyword.arg not in (None, "strict"):
                    yield _with(node, keywords=[*node.keywords[:i], *node.keywords[i + 1 :]])
        case ast.Slice(step=None) if node.lower or node.upper:
            yield _with(node, lower=None, upper=None)
        case ast.Constant() if not _is_given(owner, field):
            for new in _values(node.value, said):
                yield ast.Constant(new)
        case _:
            pass
    match node:
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()
        case ast.Raise() | ast.AugAssign() | ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.Assign(targets=[ast.Subscript() | ast.Attribute()]):
            yield ast.Pass()
        case _:
            pass


def _is_given(owner: ast.AST, field: str) -> bool:
    """Whether a constant is changed with what it stands in, or a check of our own mistakes."""
    strict = isinstance(owner, ast.keyword) and owner.arg == "strict"
    return strict or isinstance(owner, ast.Slice | ast.UnaryOp) or field in ("test", "ifs")


def _values(value: object, said: bool) -> Sequence[bool | int | float | str]:
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, value - 1]
        case float():
            return [value * 1.5]
        case str() if not said:
            return [value + "?"]
        case _:
            return []


def _with(node: Any, **fields: Any) -> Any:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new
