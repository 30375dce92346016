"""What must hold within a row: chains of comparisons such as `SBP >= MAP >= DBP`.

Terms are numbers and columns of numbers joined by + - * /; nothing else is evaluated.
"""

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedward.common.errors import ConfigError

Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_COMPARE: dict[type[ast.cmpop], Callable[[Values, Values], Mask]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_COMBINE: dict[type[ast.operator], Callable[[Values, Values], Values]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True)
class Constraint:
    """One rule, with its text as it was written."""

    text: str

    @classmethod
    def parse(cls, text: str) -> "Constraint":
        """Return the rule in `text`.

        Raises:
            ConfigError: it is not a chain of comparisons of columns and numbers.
        """
        rule = cls(text)
        if not rule.names:
            raise ConfigError(f"constraints: {text!r} names no column")
        return rule

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns that the rule is about, each once, as they come."""
        found = [node for node in ast.walk(self._tree) if isinstance(node, ast.Name)]
        found.sort(key=lambda node: node.col_offset)
        return tuple(dict.fromkeys(node.id for node in found))

    def holds(self, frame: pd.DataFrame) -> Mask:
        """Return (N,) whether each row keeps the rule; a row that lacks a value breaks none."""
        values = {name: frame[name].to_numpy(dtype=np.float64) for name in self.names}
        terms = [
            np.broadcast_to(_value(term, values), (len(frame),))
            for term in (self._tree.left, *self._tree.comparators)
        ]
        kept = np.ones(len(frame), dtype=bool)
        for left, compare, right in zip(terms, self._tree.ops, terms[1:], strict=False):
            unknown = np.isnan(left) | np.isnan(right)
            kept &= unknown | _COMPARE[type(compare)](left, right)
        return kept

    @cached_property
    def _tree(self) -> ast.Compare:
        try:
            tree = ast.parse(self.text.strip(), mode="eval").body
        except SyntaxError:
            raise ConfigError(f"constraints: {self.text!r} cannot be read; {_EXPECTED}") from None
        if not isinstance(tree, ast.Compare) or not all(type(op) in _COMPARE for op in tree.ops):
            raise ConfigError(f"constraints: {self.text!r} compares nothing; {_EXPECTED}")
        for term in (tree.left, *tree.comparators):
            if not _is_term(term):
                raise ConfigError(f"constraints: {self.text!r} has an unknown term; {_EXPECTED}")
        return tree


_EXPECTED = "expected column names and numbers with + - * / and < <= > >=, as in SBP >= MAP >= DBP"


def _is_term(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return type(node.op) in _COMBINE and _is_term(node.left) and _is_term(node.right)
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) and not isinstance(node.value, bool)
    return isinstance(node, ast.Name)


def _value(node: ast.expr, values: dict[str, Values]) -> Values:
    if isinstance(node, ast.BinOp):
        with np.errstate(divide="ignore", invalid="ignore"):
            return _COMBINE[type(node.op)](_value(node.left, values), _value(node.right, values))
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, int | float)
        return np.array(node.value, dtype=np.float64)
    assert isinstance(node, ast.Name)
    return values[node.id]
