"""Constraints across fields: a line of arithmetic over a config, read without ever running code.

`match_iou_low < match_iou_high`, `increasing(anchor_scales)`, `head_depth * head_channels <= 192 or optimizer == "sgd"`.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from detector.config import ConfigError, DetectorConfig, check_field_name
from spaces.distributions import SpaceError

OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: lambda a, b: _number(a) * _number(b), ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: lambda a, b: _number(a) % _number(b),
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
    ast.NotEq: operator.ne, ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "increasing": lambda values: all(a < b for a, b in pairwise(values)),
    "len": len, "min": min, "max": max, "sum": sum, "abs": abs,
}  # fmt: skip


PARTS = (
    ast.Constant, ast.Tuple, ast.List, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.And, ast.Or, ast.Not, ast.USub, ast.Load,
)  # fmt: skip
LONGEST = 500  # characters: deeper nests than a person writes are not read
WRONG = (TypeError, ValueError, ArithmeticError)  # what working out a rule may raise


def _number(value: Any) -> Any:
    """The value itself; texts and tuples can be compared but not multiplied."""
    if isinstance(value, (int, float)):
        return value
    raise TypeError(f"{value!r} is no number")


@dataclass(frozen=True)
class Constraint:
    """What must hold of every config that a space tries; `text` is both the rule and its explanation.

    Raises: SpaceError for a text that is no such rule, or names what is no field.
    """

    text: str

    def __post_init__(self) -> None:
        if len(self.text) > LONGEST:
            raise SpaceError(
                f"constraint {self.text[:40]!r}.. must have at most {LONGEST} characters, got {len(self.text)}"
            )
        try:
            tree = ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            raise SpaceError(f"constraint {self.text!r} must be one expression; reading it said: {error.msg}") from None
        self._check_parts(tree)
        try:  # what cannot be worked out is said now, not at the first proposal
            self._value(tree, vars(DetectorConfig()))
        except WRONG as error:
            raise SpaceError(f"constraint {self.text!r} cannot be worked out for the defaults: {error}") from None

    def _check_parts(self, tree: ast.expr) -> None:
        """Raises: SpaceError for any part that no constraint has, read or skipped by an `or`."""
        called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            match node:
                case ast.Name(id=name) if node in called:
                    allowed = name in FUNCTIONS
                case ast.Name(id=name):
                    allowed = True
                    try:
                        check_field_name(name, f"constraint {self.text!r}")
                    except ConfigError as error:
                        raise SpaceError(str(error)) from None
                case ast.Call(func=func, keywords=keywords):
                    allowed = isinstance(func, ast.Name) and not keywords
                case _:
                    allowed = isinstance(node, PARTS) or type(node) in OPERATORS
            if not allowed:
                raise SpaceError(
                    f"constraint {self.text!r} may use fields, numbers, texts, + - * / // %, comparisons, and, or, not and "
                    f"{', '.join(FUNCTIONS)}; not {ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__}"
                )

    def check(self, config: DetectorConfig) -> None:
        """Raises: ConfigError where a config breaks the rule."""
        tree = ast.parse(self.text, mode="eval").body
        try:
            holds = self._value(tree, vars(config))
        except WRONG as error:
            raise ConfigError(f"the space's constraint {self.text!r} cannot be worked out: {error}") from None
        if not holds:
            names = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id not in FUNCTIONS]
            got = ", ".join(f"{name}={getattr(config, name)!r}" for name in dict.fromkeys(names))
            raise ConfigError(f"the space's constraint {self.text!r} must hold, got {got}")

    def _value(self, node: ast.AST, names: Mapping[str, Any]) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return names[name]
            case ast.Tuple(elts=items) | ast.List(elts=items):
                return tuple(self._value(item, names) for item in items)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                return OPERATORS[type(op)](self._value(left, names), self._value(right, names))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._value(operand, names)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._value(operand, names)
            case ast.BoolOp(op=op, values=values):
                parts = (self._value(value, names) for value in values)
                return all(parts) if isinstance(op, ast.And) else any(parts)
            case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in OPERATORS for op in ops):
                sides = [self._value(side, names) for side in (left, *others)]
                return all(OPERATORS[type(op)](a, b) for op, (a, b) in zip(ops, pairwise(sides), strict=True))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
                return FUNCTIONS[name](*(self._value(argument, names) for argument in arguments))
        raise AssertionError(ast.dump(node))  # _check_parts has refused it
