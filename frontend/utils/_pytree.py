"""`utils._pytree`: nested lists, tuples, named tuples and dicts as a flat list of leaves and a description."""
from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

PyTree = Any
Flatten = Callable[[Any], tuple[list[Any], Any]]
Unflatten = Callable[[Iterable[Any], Any], Any]


class NodeDef(NamedTuple):
    """How a container is taken apart (children, context) and put together again."""

    flatten: Flatten
    unflatten: Unflatten


def _dict_rule(kind: type) -> NodeDef:
    return NodeDef(lambda d: (list(d.values()), list(d)), lambda values, keys: kind(zip(keys, values, strict=True)))


SUPPORTED_NODES: dict[type, NodeDef] = {
    list: NodeDef(lambda x: (list(x), None), lambda values, _: list(values)),
    tuple: NodeDef(lambda x: (list(x), None), lambda values, _: tuple(values)),
    dict: _dict_rule(dict),
    OrderedDict: _dict_rule(OrderedDict),
    defaultdict: NodeDef(lambda d: (list(d.values()), (d.default_factory, list(d))),
                         lambda values, c: defaultdict(c[0], zip(c[1], values, strict=True))),
    deque: NodeDef(lambda d: (list(d), d.maxlen), lambda values, maxlen: deque(values, maxlen=maxlen)),
}
_NAMED = NodeDef(lambda x: (list(x), type(x)), lambda values, kind: kind(*values))


def register_pytree_node(cls: type, flatten_fn: Flatten, unflatten_fn: Unflatten, **names: Any) -> None:
    """Treat objects of `cls` as containers. ValueError when it is registered already."""
    if cls in SUPPORTED_NODES:
        raise ValueError(f"{cls} is already registered as pytree node.")
    SUPPORTED_NODES[cls] = NodeDef(flatten_fn, unflatten_fn)


def _definition(tree: Any) -> NodeDef | None:
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return _NAMED
    return SUPPORTED_NODES.get(type(tree))


class TreeSpec:
    """The structure of a tree: its type, context and children; a leaf has type None."""

    def __init__(self, type: type | None, context: Any = None, children_specs: Sequence[TreeSpec] = ()) -> None:
        self.type, self.context, self.children_specs = type, context, list(children_specs)
        self.num_leaves: int = 1 if type is None else sum(c.num_leaves for c in self.children_specs)

    @property
    def num_children(self) -> int:
        return len(self.children_specs)

    def is_leaf(self) -> bool:
        return self.type is None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TreeSpec) and (self.type, self.context, self.children_specs) == \
            (other.type, other.context, other.children_specs)

    def __hash__(self) -> int:
        return hash((self.type, self.num_leaves, len(self.children_specs)))

    def __repr__(self) -> str:
        if self.type is None:
            return "*"
        return f"TreeSpec({self.type.__name__}, {self.context}, {self.children_specs})"

    def unflatten(self, leaves: Iterable[Any]) -> Any:
        return tree_unflatten(leaves, self)


def LeafSpec() -> TreeSpec:
    return TreeSpec(None)


def tree_flatten(tree: PyTree, is_leaf: Callable[[Any], bool] | None = None) -> tuple[list[Any], TreeSpec]:
    """(leaves from left to right, structure)."""
    leaves: list[Any] = []

    def walk(node: Any) -> TreeSpec:
        definition = None if is_leaf is not None and is_leaf(node) else _definition(node)
        if definition is None:
            leaves.append(node)
            return TreeSpec(None)
        children, context = definition.flatten(node)
        return TreeSpec(type(node), context, [walk(c) for c in children])
    spec = walk(tree)
    return leaves, spec


def tree_unflatten(leaves: Iterable[Any], treespec: TreeSpec) -> PyTree:
    """The tree of structure `treespec` with these leaves. ValueError for a wrong number of them."""
    values = list(leaves)
    if len(values) != treespec.num_leaves:
        raise ValueError(f"tree_unflatten(leaves, treespec): `leaves` has length {len(values)} but the spec refers to a pytree that "
                         f"holds {treespec.num_leaves} items")
    rest = iter(values)

    def build(spec: TreeSpec) -> Any:
        if spec.type is None:
            return next(rest)
        definition = SUPPORTED_NODES.get(spec.type, _NAMED)
        return definition.unflatten([build(c) for c in spec.children_specs], spec.context)
    return build(treespec)


def tree_leaves(tree: PyTree, is_leaf: Callable[[Any], bool] | None = None) -> list[Any]:
    return tree_flatten(tree, is_leaf)[0]


tree_iter = tree_leaves


def tree_structure(tree: PyTree, is_leaf: Callable[[Any], bool] | None = None) -> TreeSpec:
    return tree_flatten(tree, is_leaf)[1]


def tree_map(func: Callable[..., Any], tree: PyTree, *rests: PyTree, is_leaf: Callable[[Any], bool] | None = None) -> PyTree:
    """`func` of the leaves of `tree` and of the leaves at the same places of `rests`. ValueError when their structures differ."""
    leaves, spec = tree_flatten(tree, is_leaf)
    others = []
    for rest in rests:
        values, other = tree_flatten(rest, is_leaf)
        if other != spec:
            raise ValueError(f"tree_map: expected trees of the same structure, got {spec} and {other}")
        others.append(values)
    return tree_unflatten([func(*group) for group in zip(leaves, *others, strict=True)], spec)


def _chosen(kind: Any) -> Callable[[Any], bool]:
    return kind if callable(kind) and not isinstance(kind, type) else lambda x: isinstance(x, kind)


def tree_map_only(type_or_types_or_pred: Any, func: Callable[[Any], Any], tree: PyTree,
                  is_leaf: Callable[[Any], bool] | None = None) -> PyTree:
    """`func` of the leaves of the given types; others stay."""
    chosen = _chosen(type_or_types_or_pred)
    return tree_map(lambda x: func(x) if chosen(x) else x, tree, is_leaf=is_leaf)


def tree_all(pred: Callable[[Any], bool], tree: PyTree, is_leaf: Callable[[Any], bool] | None = None) -> bool:
    return all(map(pred, tree_leaves(tree, is_leaf)))


def tree_any(pred: Callable[[Any], bool], tree: PyTree, is_leaf: Callable[[Any], bool] | None = None) -> bool:
    return any(map(pred, tree_leaves(tree, is_leaf)))
