"""Which agents there are: what PostgreSQL says, and the running fleet where it can't be asked."""

import functools
from typing import Any, Final

import jsonschema
import jsonschema.exceptions
import referencing

from greenroom.api.body import pointer
from greenroom.api.cache import Cache
from greenroom.api.fleet import Fleet
from greenroom.api.store import Agent, Store
from greenroom.common.clock import Clock
from greenroom.common.errors import AgentNotFound, DatabaseUnavailable, FieldProblem, InvalidBody
