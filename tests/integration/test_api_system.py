"""Keys, agents, runners, status, probes, pages of other origins, and what is told to operators."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import structlog
from opentelemetry import trace
from websockets.asyncio.client import connect

from greenroom.api.openapi import render
from greenroom.common import messages, subjects
from greenroom.common.clock import utcnow
from greenroom.common.lifecycle import State
from greenroom.common.messages import BotOffer, HeldSession, LeaderClaim
from tests.support.api_world import RUNNER, ApiWorld, FakeProcess, eventually, problem_of, running_api
from tests.support.spans import SpanBox
