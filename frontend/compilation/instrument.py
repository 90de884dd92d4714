"""Rewrites a Python function so that its reads, writes and calls can be watched; control flow stays Python's own.

The source is parsed, every access to Python state becomes a call of `treadle.compilation.watch`, and the result is compiled
under the original file name and line numbers, so tracebacks and source locations stay true.
"""
from __future__ import annotations

import ast
import linecache
import types
from collections.abc import Iterator
from typing import Any

WATCH = "__treadle_watch"
_FRAME_READERS = frozenset({"locals", "vars", "dir", "eval", "exec", "globals"})
_BINARY = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "truediv", ast.FloorDiv: "floordiv", ast.Mod: "mod",
           ast.Pow: "pow", ast.MatMult: "matmul", ast.LShift: "lshift", ast.RShift: "rshift", ast.BitAnd: "and_", ast.BitOr: "or_",
           ast.BitXor: "xor"}
_UNARY = {ast.USub: "neg", ast.UAdd: "pos", ast.Invert: "invert"}
_COMPARE = {ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge", ast.In: "in", ast.NotIn: "not in"}
FunctionNode = ast.FunctionDef | ast.Lambda


class Uninstrumentable(Exception):
    """Why a function cannot be watched; it is run as it is, and its call is not replayed."""


class _Scope:
    """Names bound in one function (or comprehension)."""

    def __init__(self, bound: set[str], outer_globals: set[str]) -> None:
        self.bound = bound
        self.globals = outer_globals


class _Names(ast.NodeVisitor):
    """Collects the names a function body binds, without entering nested functions."""

    def __init__(self) -> None:
        self.bound: set[str] = set()
        self.globals: set[str] = set()
        self.nonlocals: set[str] = set()

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load):
            self.bound.add(node.id)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.bound.add(node.name)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.bound.add(node.name)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        pass

    def _comprehension(self, node: Any) -> None:  # its targets are its own; walrus targets are ours
        for inner in ast.walk(node):
            if isinstance(inner, ast.NamedExpr):
                self.bound.add(inner.target.id)

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def visit_Global(self, node: ast.Global) -> None:
        self.globals.update(node.names)

    def visit_Nonlocal(self, node: ast.Nonlocal) -> None:
        self.nonlocals.update(node.names)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self.bound.add(node.name)
        self.generic_visit(node)

    def visit_alias(self, node: ast.alias) -> None:
        self.bound.add((node.asname or node.name).split(".")[0])


def _parameters(args: ast.arguments) -> set[str]:
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
    return {a.arg for a in every if a is not None}


def _scope_of(node: FunctionNode) -> tuple[_Scope, set[str]]:
    names = _Names()
    for part in node.body if isinstance(node, ast.FunctionDef) else [node.body]:
        names.visit(part)
    bound = (names.bound | _parameters(node.args)) - names.globals - names.nonlocals
    return _Scope(bound, names.globals), names.nonlocals


class _Rewriter(ast.NodeTransformer):
    """Turns accesses into calls of the watch module."""

    def __init__(self, free: frozenset[str], class_name: str | None) -> None:
        self.free = free
        self.class_name = class_name
        self.scopes: list[_Scope] = []
        self.temporaries = 0

    # -- helpers -----------------------------------------------------------------------------------------------------------
    def watch(self, name: str, *args: ast.expr, at: ast.AST) -> ast.Call:
        call = ast.Call(ast.Attribute(ast.Name(WATCH, ast.Load()), name, ast.Load()), list(args), [])
        return ast.copy_location(call, at)

    def temporary(self) -> str:
        self.temporaries += 1
        return f"__treadle_{self.temporaries}"

    def mangled(self, name: str) -> str:
        if self.class_name and name.startswith("__") and not name.endswith("__"):
            return f"_{self.class_name.lstrip('_')}{name}"
        return name

    def is_global(self, name: str) -> bool:
        for scope in reversed(self.scopes):
            if name in scope.globals:
                return True
            if name in scope.bound:
                return False
        return name not in self.free

    def lazily(self, value: ast.expr) -> ast.Lambda:
        for inner in ast.walk(value):
            if isinstance(inner, ast.NamedExpr | ast.Yield | ast.YieldFrom | ast.Await):
                raise Uninstrumentable("an assignment or yield inside a condition")
        none = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        return ast.copy_location(ast.Lambda(none, self.visit(value)), value)

    def truth(self, test: ast.expr) -> ast.expr:
        return self.watch("truth", self.visit(test), at=test)

    # -- expressions -------------------------------------------------------------------------------------------------------
    def visit_Name(self, node: ast.Name) -> ast.expr:
        if isinstance(node.ctx, ast.Load) and node.id != WATCH and self.is_global(node.id):
            return self.watch("glob", node, ast.Constant(node.id), at=node)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return self.watch("attr", self.visit(node.value), ast.Constant(self.mangled(node.attr)), at=node)

    def index(self, node: ast.expr) -> ast.expr:
        if isinstance(node, ast.Slice):
            parts = [ast.Constant(None) if p is None else self.visit(p) for p in (node.lower, node.upper, node.step)]
            return self.watch("slice", *parts, at=node)
        if isinstance(node, ast.Tuple):
            return ast.copy_location(ast.Tuple([self.index(e) for e in node.elts], ast.Load()), node)
        return self.visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        return self.watch("item", self.visit(node.value), self.index(node.slice), at=node)

    def visit_Starred(self, node: ast.Starred) -> ast.expr:
        if isinstance(node.ctx, ast.Load):
            node.value = self.watch("iterate", self.visit(node.value), at=node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if isinstance(node.func, ast.Name) and self.is_global(node.func.id):
            if node.func.id == "super" and not node.args:
                return node
            if node.func.id in _FRAME_READERS:
                raise Uninstrumentable(f"{node.func.id}() looks at the frame")
        call = self.watch("call", self.visit(node.func), *[self.visit(a) for a in node.args], at=node)
        for k in node.keywords:
            value = self.visit(k.value)
            call.keywords.append(ast.keyword(k.arg, value if k.arg else self.watch("mapping", value, at=k.value)))
        return call

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        return self.watch("binary", ast.Constant(_BINARY[type(node.op)]), self.visit(node.left), self.visit(node.right), at=node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        if isinstance(node.op, ast.Not):
            return ast.copy_location(ast.UnaryOp(ast.Not(), self.truth(node.operand)), node)
        if isinstance(node.operand, ast.Constant):
            return node
        return self.watch("unary", ast.Constant(_UNARY[type(node.op)]), self.visit(node.operand), at=node)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        if len(node.ops) == 1:
            if isinstance(node.ops[0], ast.Is | ast.IsNot):
                return self.generic_visit(node)  # type: ignore[return-value]
            name = ast.Constant(_COMPARE[type(node.ops[0])])
            return self.watch("compare", name, self.visit(node.left), self.visit(node.comparators[0]), at=node)
        if any(isinstance(op, ast.Is | ast.IsNot) for op in node.ops):
            raise Uninstrumentable("`is` inside a chain of comparisons")
        steps: list[ast.expr] = []
        for op, right in zip(node.ops, node.comparators, strict=True):
            steps += [ast.Constant(_COMPARE[type(op)]), self.lazily(right)]
        return self.watch("chain", self.visit(node.left), *steps, at=node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        name = "all_of" if isinstance(node.op, ast.And) else "any_of"
        return self.watch(name, *[self.lazily(v) for v in node.values], at=node)

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        return ast.copy_location(ast.IfExp(self.truth(node.test), self.visit(node.body), self.visit(node.orelse)), node)

    def _display(self, node: Any) -> ast.expr:
        if isinstance(getattr(node, "ctx", None), ast.Store):
            return self.generic_visit(node)  # type: ignore[return-value]
        if isinstance(node, ast.Dict):
            for i, key in enumerate(node.keys):
                if key is None:
                    node.values[i] = self.watch("mapping", node.values[i], at=node)
        return self.watch("new", self.generic_visit(node), at=node)  # type: ignore[arg-type]

    visit_List = visit_Dict = visit_Set = _display

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.expr:
        node.value = self.watch("show", self.visit(node.value), at=node)
        if node.format_spec is not None:
            node.format_spec = self.visit(node.format_spec)
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        self._defaults(node.args)
        self.scopes.append(_scope_of(node)[0])
        node.body = self.visit(node.body)
        self.scopes.pop()
        return node

    def _comprehension(self, node: Any) -> ast.expr:
        bound: set[str] = set()
        for i, generator in enumerate(node.generators):
            if generator.is_async:
                raise Uninstrumentable("an asynchronous comprehension")
            if i == 0:
                generator.iter = self.loop_over(generator.target, self.visit(generator.iter))
                self.scopes.append(_Scope(bound, set()))
            bound.update(n.id for n in ast.walk(generator.target) if isinstance(n, ast.Name))
            if i:
                generator.iter = self.loop_over(generator.target, self.visit(generator.iter))
            self.only_names(generator.target)
            generator.ifs = [self.truth(test) for test in generator.ifs]
        for part in ("elt", "key", "value"):
            if hasattr(node, part):
                setattr(node, part, self.visit(getattr(node, part)))
        self.scopes.pop()
        return node if isinstance(node, ast.GeneratorExp) else self.watch("new", node, at=node)

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def loop_over(self, target: ast.expr, iterable: ast.expr) -> ast.expr:
        return self.watch("iterate_unpacked" if isinstance(target, ast.Tuple | ast.List) else "iterate", iterable, at=iterable)

    def only_names(self, target: ast.expr) -> None:
        if any(isinstance(n, ast.Attribute | ast.Subscript) for n in ast.walk(target)):
            raise Uninstrumentable("a loop variable that is an attribute or item")

    # -- statements --------------------------------------------------------------------------------------------------------
    def store(self, target: ast.expr, value: ast.expr, at: ast.stmt) -> list[ast.stmt]:
        """`target = value`."""
        if isinstance(target, ast.Attribute):
            name = ast.Constant(self.mangled(target.attr))
            return [ast.copy_location(ast.Expr(self.watch("set_attr", self.visit(target.value), name, value, at=at)), at)]
        if isinstance(target, ast.Subscript):
            index = self.index(target.slice)
            return [ast.copy_location(ast.Expr(self.watch("set_item", self.visit(target.value), index, value, at=at)), at)]
        if isinstance(target, ast.Tuple | ast.List):
            later: list[ast.stmt] = []
            names: list[ast.expr] = []
            for element in target.elts:
                star = isinstance(element, ast.Starred)
                inner = element.value if isinstance(element, ast.Starred) else element
                if isinstance(inner, ast.Name):
                    names.append(element)
                    later += self.after_store(inner, at)
                    continue
                part = self.temporary()
                stored: ast.expr = ast.Name(part, ast.Store())
                names.append(ast.Starred(stored, ast.Store()) if star else stored)
                later += self.store(inner, ast.Name(part, ast.Load()), at)
            unpacked = ast.Tuple(names, ast.Store())
            return [ast.copy_location(ast.Assign([unpacked], self.watch("iterate", value, at=at)), at), *later]
        return [ast.copy_location(ast.Assign([target], value), at), *self.after_store(target, at)]

    def after_store(self, target: ast.expr, at: ast.stmt) -> list[ast.stmt]:
        if isinstance(target, ast.Name) and self.is_global(target.id):
            return [ast.copy_location(ast.Expr(self.watch("stored_global", ast.Constant(target.id), at=at)), at)]
        return []

    def visit_Assign(self, node: ast.Assign) -> Any:
        value = self.visit(node.value)
        if len(node.targets) == 1:
            return self.store(node.targets[0], value, node)
        name = self.temporary()
        out: list[ast.stmt] = [ast.copy_location(ast.Assign([ast.Name(name, ast.Store())], value), node)]
        for target in node.targets:
            out += self.store(target, ast.Name(name, ast.Load()), node)
        return out

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return self.store(node.target, self.visit(node.value), node)

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        op = ast.Constant(_BINARY[type(node.op)])
        target = node.target
        if isinstance(target, ast.Name):
            have = self.visit(ast.copy_location(ast.Name(target.id, ast.Load()), target))
            return self.store(target, self.watch("in_place", op, have, self.visit(node.value), at=node), node)
        owner = self.temporary()
        out: list[ast.stmt] = [ast.copy_location(ast.Assign([ast.Name(owner, ast.Store())], self.visit(target.value)), node)]
        base = ast.Name(owner, ast.Load())
        if isinstance(target, ast.Attribute):
            key: ast.expr = ast.Constant(self.mangled(target.attr))
            read, write = "attr", "set_attr"
        else:
            name = self.temporary()
            out.append(ast.copy_location(ast.Assign([ast.Name(name, ast.Store())], self.index(target.slice)), node))
            key = ast.Name(name, ast.Load())
            read, write = "item", "set_item"
        new = self.watch("in_place", op, self.watch(read, base, key, at=node), self.visit(node.value), at=node)
        out.append(ast.copy_location(ast.Expr(self.watch(write, base, key, new, at=node)), node))
        return out

    def visit_Delete(self, node: ast.Delete) -> Any:
        out: list[ast.stmt] = []
        for target in node.targets:
            if isinstance(target, ast.Attribute):
                out.append(ast.Expr(self.watch("del_attr", self.visit(target.value), ast.Constant(self.mangled(target.attr)), at=node)))
            elif isinstance(target, ast.Subscript):
                out.append(ast.Expr(self.watch("del_item", self.visit(target.value), self.index(target.slice), at=node)))
            elif isinstance(target, ast.Name) and not self.is_global(target.id):
                out.append(ast.Delete([target]))
            else:
                raise Uninstrumentable("del of a global name or several targets")
        return [ast.copy_location(s, node) for s in out]

    def _tested(self, node: Any) -> Any:
        node.test = self.truth(node.test)
        node.body = self.body(node.body)
        node.orelse = self.body(node.orelse)
        return node

    visit_If = visit_While = _tested

    def visit_Assert(self, node: ast.Assert) -> Any:
        node.test = self.truth(node.test)
        node.msg = self.visit(node.msg) if node.msg else None
        return node

    def visit_For(self, node: ast.For) -> Any:
        self.only_names(node.target)
        node.iter = self.loop_over(node.target, self.visit(node.iter))
        node.body = self.body(node.body)
        node.orelse = self.body(node.orelse)
        return node

    def visit_With(self, node: ast.With) -> Any:
        for item in node.items:
            item.context_expr = self.watch("context", self.visit(item.context_expr), at=item.context_expr)
            if item.optional_vars is not None:
                self.only_names(item.optional_vars)
        node.body = self.body(node.body)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        if node.decorator_list:
            raise Uninstrumentable(f"{node.name} is defined inside with a decorator")
        self._defaults(node.args)
        return self.function(node)

    def function(self, node: ast.FunctionDef) -> ast.FunctionDef:
        scope, _ = _scope_of(node)
        self.scopes.append(scope)
        node.body = self.body(node.body)
        if node.args.kwarg is not None:
            name = node.args.kwarg.arg
            fresh = ast.Assign([ast.Name(name, ast.Store())], self.watch("new", ast.Name(name, ast.Load()), at=node.body[0]))
            node.body.insert(0, ast.copy_location(fresh, node.body[0]))
        self.scopes.pop()
        node.returns = None
        for a in ast.walk(node.args):
            if isinstance(a, ast.arg):
                a.annotation = None
        return node

    def _defaults(self, args: ast.arguments) -> None:
        args.defaults = [self.visit(d) for d in args.defaults]
        args.kw_defaults = [None if d is None else self.visit(d) for d in args.kw_defaults]

    def body(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        out: list[ast.stmt] = []
        for statement in statements:
            new = self.visit(statement)
            out += new if isinstance(new, list) else [new]
        return out

    def _refused(self, node: ast.AST) -> Any:
        raise Uninstrumentable(f"{type(node).__name__} at line {getattr(node, 'lineno', 0)} is not supported")

    visit_ClassDef = visit_Match = visit_AsyncFunctionDef = visit_AsyncFor = visit_AsyncWith = visit_Await = _refused


# -- finding the source ----------------------------------------------------------------------------------------------------------
_files: dict[str, tuple[dict[tuple[str, int], list[FunctionNode]], set[types.CodeType]]] = {}


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _functions(filename: str) -> tuple[dict[tuple[str, int], list[FunctionNode]], set[types.CodeType]]:
    """Functions of a source file by (name, first line as code objects count it), and the code objects it compiles to."""
    found = _files.get(filename)
    if found is None:
        lines = linecache.getlines(filename)
        if not lines:
            raise Uninstrumentable(f"the source of {filename} is not available")
        try:
            tree = ast.parse("".join(lines))
            codes = set(_codes(compile("".join(lines), filename, "exec", dont_inherit=True)))
        except SyntaxError as error:
            raise Uninstrumentable(f"the source of {filename} does not parse: {error}") from None
        nodes: dict[tuple[str, int], list[FunctionNode]] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                first = node.decorator_list[0].lineno if node.decorator_list else node.lineno
                nodes.setdefault((node.name, first), []).append(node)
            elif isinstance(node, ast.Lambda):
                nodes.setdefault(("<lambda>", node.lineno), []).append(node)
        found = _files[filename] = nodes, codes
    return found


def _enclosed(node: FunctionNode, free: tuple[str, ...], filename: str) -> types.CodeType:
    """Compiled inside a function that has the free names as parameters, so that they are free there too."""
    if isinstance(node, ast.Lambda):
        inner: ast.stmt = ast.copy_location(ast.Return(node), node)
    else:
        inner = node
    names = [ast.arg(n) for n in free]
    parameters = ast.arguments(posonlyargs=[], args=names, kwonlyargs=[], kw_defaults=[], defaults=[])
    outer = ast.FunctionDef("__treadle_factory", parameters, [inner], [], None, None, lineno=1, col_offset=0)
    if hasattr(outer, "type_params"):
        outer.type_params = []
    module = ast.fix_missing_locations(ast.Module([outer], []))
    code = compile(module, filename, "exec", dont_inherit=True)
    factory = next(c for c in code.co_consts if isinstance(c, types.CodeType))
    return next(c for c in factory.co_consts if isinstance(c, types.CodeType))


def _copy(node: FunctionNode) -> FunctionNode:
    """A deep copy without decorators, defaults and annotations, which belong to the function object."""
    from copy import deepcopy
    node = deepcopy(node)
    args = node.args
    args.defaults = [ast.copy_location(ast.Constant(None), d) for d in args.defaults]
    args.kw_defaults = [None if d is None else ast.copy_location(ast.Constant(None), d) for d in args.kw_defaults]
    if isinstance(node, ast.FunctionDef):
        node.decorator_list = []
        node.returns = None
    for a in ast.walk(args):
        if isinstance(a, ast.arg):
            a.annotation = None
    return node


def _source_of(code: types.CodeType) -> FunctionNode:
    """The tree this code was compiled from: compiling the file again must give the same code."""
    nodes, codes = _functions(code.co_filename)
    if code in codes:
        for node in nodes.get((code.co_name, code.co_firstlineno), []):
            if isinstance(node, ast.FunctionDef) or _is_body(code, node.body):
                return _copy(node)
    raise Uninstrumentable(f"the source of {code.co_name} ({code.co_filename}:{code.co_firstlineno}) is not available, or has changed")


def _is_body(code: types.CodeType, body: ast.expr) -> bool:
    """Whether the code is that of the lambda with this body, and not of another one on the same line."""
    where = (body.lineno, body.end_lineno, body.col_offset, body.end_col_offset)
    places = [p for p in code.co_positions() if p[0] is not None and p[3]]
    return where in places and all((body.lineno, body.col_offset) <= (p[0] or 0, p[2] or 0) for p in places)


# -- the result --------------------------------------------------------------------------------------------------------------------
_instrumented: dict[types.CodeType, types.CodeType | Uninstrumentable] = {}
CODES: set[types.CodeType] = set()  # code objects that are watched


def _register(code: types.CodeType) -> None:
    CODES.add(code)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _register(constant)


def _build(code: types.CodeType, qualname: str) -> types.CodeType:
    if code.co_flags & 0x380:
        raise Uninstrumentable(f"{code.co_name} is asynchronous")
    node = _source_of(code)
    owner = qualname.split(".")[-2] if "." in qualname else None
    rewriter = _Rewriter(frozenset(code.co_freevars), None if owner == "<locals>" else owner)
    if isinstance(node, ast.Lambda):
        scope, _ = _scope_of(node)
        rewriter.scopes.append(scope)
        node.body = rewriter.visit(node.body)
    else:
        if _scope_of(node)[1]:
            raise Uninstrumentable(f"{code.co_name} assigns names of an enclosing function")
        node = rewriter.function(node)
    made = _enclosed(node, (WATCH, *code.co_freevars), code.co_filename)
    _register(made)
    return made


def instrumented_code(function: types.FunctionType) -> types.CodeType:
    """The watched form of a function's code, made once. Uninstrumentable when there is none."""
    code = function.__code__
    found = _instrumented.get(code)
    if found is None:
        try:
            found = _build(code, function.__qualname__)
        except Uninstrumentable as reason:
            found = reason
        except RecursionError:
            found = Uninstrumentable(f"{code.co_name} is nested too deeply")
        _instrumented[code] = found
    if isinstance(found, Uninstrumentable):
        raise found
    return found
