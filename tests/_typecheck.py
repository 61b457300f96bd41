"""How annotations are checked under pytest: after a function has had its say.

jaxtyping's import hook (``--jaxtyping-packages`` in pyproject.toml) makes two stand-ins of every function of glutils
and hands both to the checker named there, which is :func:`check`: one with its parameters, called before it, and one
with its parameters and its answer, called after it. Only the second is checked here, and it checks both.

So the annotations of a public call may be honest (``count: int``, ``Float[Tensor, "batch channel height width"]``)
although the call refuses what does not fit with a better message of its own: it runs, it raises, and that is the error
which a test sees. A function that is called against its annotations and does *not* refuse gets jaxtyping's
``TypeCheckError``. Nothing has to be listed or marked, and no annotation has to be ``Any`` to let a message through.

What this asks of the code: functions have a return annotation (one without has no second stand-in that is called, so
its parameters are checked before it runs); a generator, of which nothing runs when it is called, gets its arguments
from a function that has refused bad ones. As everywhere in typed Python, ``float`` takes an ``int``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_strict = beartype(conf=BeartypeConf(is_pep484_tower=True))
_checked_before: set[tuple[str, str]] = set()


def check(stand_in: Callable[..., Any]) -> Callable[..., Any]:
    """The stand-in, checked by beartype where it is the one that is called after its function."""
    key = (stand_in.__module__, stand_in.__qualname__)
    if _takes_the_answer(stand_in):
        if "return" in stand_in.__annotations__:
            _checked_before.discard(key)
            return _strict(stand_in)
        _checked_before.add(key)  # it will never be called: check the other one
        return stand_in
    alone = stand_in.__name__ == "check_single_arg"  # how jaxtyping finds the argument at fault
    return _strict(stand_in) if alone or key in _checked_before else stand_in


def _takes_the_answer(stand_in: Callable[..., Any]) -> bool:
    """Whether the last keyword is the answer, which jaxtyping calls ret0, or ret1 where there is a ret0."""
    code = stand_in.__code__
    keywords = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    return bool(keywords) and keywords[-1].startswith("ret") and keywords[-1][3:].isdigit()
