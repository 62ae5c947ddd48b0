"""Tables of components: what a setting may name, with help, paper and builder of each."""

import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True)
class Component:
    """A member of a table.

    Attributes:
        name: as settings name it.
        help: what it is, in a line that follows its name.
        builder: what makes or does it, as `package.module:name`, imported when it is used, so that
            settings need no PyTorch; or the thing itself. Its signature is that of its table.
        paper: where it is from; empty for one of our own.
    """

    name: str
    help: str
    builder: Any
    paper: str = ""

    def resolved(self) -> Any:
        """Return what the builder names."""
        return pkgutil.resolve_name(self.builder) if isinstance(self.builder, str) else self.builder


@dataclass(frozen=True)
class SourceComponent(Component):
    """A form of `classifier.source` or `denoiser.source`.

    Attributes:
        form: as messages write it; empty where the names are listed.
        pattern: of the whole source.
        imports_code: whether it is code of another package, which runs when it is imported.
        takes_arguments: whether the arguments of the settings are for it.
        has_weights: whether it brings its own.
        trainable: whether `classifier.training` can train it.
    """

    form: str = ""
    pattern: str = ""
    imports_code: bool = False
    takes_arguments: bool = False
    has_weights: bool = False
    trainable: bool = False


C = TypeVar("C", bound=Component)


class Table(Mapping[str, C], Generic[C]):
    """Components of one kind, by name, in the order of messages and lists.

    As metadata of `Annotated[str, TABLE]` it makes a setting that takes the names in it.
    """

    def __init__(self, *components: C) -> None:
        self._components: dict[str, C] = {}
        for component in components:
            self.add(component)

    def __getitem__(self, name: str) -> C:
        return self._components[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._components)

    def __len__(self) -> int:
        return len(self._components)

    # A table is itself alone, as metadata of a type must be.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def add(self, component: C) -> None:
        """Add a component."""
        if component.name in self._components:
            raise ValueError(f"there is a {component.name} already")
        self._components[component.name] = component

    def remove(self, name: str) -> None:
        """Take a component out."""
        del self._components[name]

    def build(self, name: str, *arguments: Any, **named: Any) -> Any:
        """Call the builder of a component."""
        return self[name].resolved()(*arguments, **named)

    @property
    def names(self) -> str:
        """All names, as messages list what is allowed."""
        *most, last = map(repr, self)
        return f"{', '.join(most)} or {last}" if most else last

    @property
    def help(self) -> str:
        """All components in a line, for the description of a setting."""
        return "; ".join(
            f"{name}: {found.help}{f' ({found.paper})' if found.paper else ''}"
            for name, found in self.items()
        )

    def markdown(self) -> str:
        """Return the rows of a table of name, help and paper, as READMEs list them."""
        return "".join(f"| `{c.name}` | {c.help} | {c.paper} |\n" for c in self.values())

    def __get_pydantic_core_schema__(self, *_: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._member)

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"enum": list(self)}

    def _member(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self:
            raise ValueError(f"must be {self.names}")
        return value


REGISTERED = "registered"
_NAME = r"[A-Za-z_]\w*"
# Of package.module:function.
FACTORY = rf"{_NAME}(\.{_NAME})*:{_NAME}(\.{_NAME})*"


def form_of(source: str, registered: tuple[str, ...], forms: Table[Any]) -> str:
    """Return which form a source has; of two that it has, the last counts.

    Args:
        forms: a table of `SourceComponent`, of which one is `REGISTERED`.
    """
    if source in registered:
        return REGISTERED
    for form in reversed(list(forms.values())):
        if form.pattern and re.fullmatch(form.pattern, source):
            return str(form.name)
    names = ", ".join(map(repr, registered))
    *most, last = (form.form for form in forms.values() if form.form)
    raise ValueError(f"must be one of {names}, or {', '.join(most)}, or {last}")
