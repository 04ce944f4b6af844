"""The routes: what HTTP says, turned into calls of the parts and back."""

import os
from collections.abc import Callable
from typing import Any

from litestar.handlers import HTTPRouteHandler

from greenroom.api.agents import Agents
from greenroom.api.billing.budgets import Budgets, SpendingFeed
from greenroom.api.billing.prices import Prices
from greenroom.api.billing.usage import Usages
from greenroom.api.bot_http import BotHttpLink
from greenroom.api.carriers.calls import Calls
from greenroom.api.commands import Commands
from greenroom.api.daily_goers import DailyGoers
from greenroom.api.daily_rooms import DailyRoomsStore
from greenroom.api.decrypting import Vault
from greenroom.api.fleet import Fleet
from greenroom.api.listen_tickets import ListenTickets
from greenroom.api.moves import Moves
from greenroom.api.offers import Offers
from greenroom.api.peer_tokens import PeerTokens
from greenroom.api.phone_numbers import Numbers
from greenroom.api.policy import PolicyPublisher
from greenroom.api.policy_store import PolicyStore
from greenroom.api.post_call import Steps
from greenroom.api.post_call_choices import Choices
from greenroom.api.reading.parts import Reading
from greenroom.api.routes.agents import agent_routes
from greenroom.api.routes.bot_http import bot_http_routes
from greenroom.api.routes.budgets import budget_routes
from greenroom.api.routes.call_page import call_page_routes
from greenroom.api.routes.commands import command_routes
from greenroom.api.routes.daily import daily_event_routes, daily_routes
from greenroom.api.routes.daily_rooms import daily_room_routes
from greenroom.api.routes.events import event_routes
from greenroom.api.routes.exports import export_routes
from greenroom.api.routes.limits import limit_routes
from greenroom.api.routes.moves import move_routes
from greenroom.api.routes.numbers import number_routes
from greenroom.api.routes.offers import offer_routes
from greenroom.api.routes.pins import pin_routes
from greenroom.api.routes.pipecat_start import pipecat_offer_routes, pipecat_routes
from greenroom.api.routes.pools import pool_routes, reservation_routes
from greenroom.api.routes.post_call import post_call_routes
from greenroom.api.routes.post_call_choices import post_call_choice_routes
from greenroom.api.routes.prices import price_routes
from greenroom.api.routes.reading import reading_routes
from greenroom.api.routes.recordings import recording_routes
from greenroom.api.routes.retention import retention_routes
from greenroom.api.routes.rollouts import rollout_routes, weight_routes
from greenroom.api.routes.runner_orders import runner_order_routes
from greenroom.api.routes.search import search_routes
from greenroom.api.routes.sessions import session_routes
from greenroom.api.routes.system import system_routes
from greenroom.api.routes.tenants import tenant_routes
from greenroom.api.routes.usage import usage_routes
from greenroom.api.routes.waiting import queue_routes
from greenroom.api.routes.webhook_endpoints import webhook_endpoint_routes
from greenroom.api.routes.webhooks import webhook_routes
from greenroom.api.runner_orders import RunnerOrders
from greenroom.api.scheduler_link import SchedulerLink
from greenroom.api.sessions import Sessions
from greenroom.api.settings import ApiSettings
from greenroom.api.shelf import shelf_of
from greenroom.api.sse import EventStreams
from greenroom.api.store import Store
from greenroom.api.tenant_store import TenantStore
from greenroom.api.transports.daily_dialin import Dialin
from greenroom.api.transports.daily_signature import Signatures
from greenroom.api.webhook_endpoints import Endpoints
from greenroom.common.broker import Broker
from greenroom.common.health import Readiness
from greenroom.common.outbound import Exits
from greenroom.common.tenant_keys import open_keys
from greenroom.common.webhook_secrets import WebhookSecrets


def all_routes(
    *,
    sessions: Sessions,
    daily_rooms: DailyRoomsStore,
    daily_goers: DailyGoers,
    commands: Commands,
    moves: Moves,
    bot_http: BotHttpLink,
    listen_tickets: ListenTickets,
    store: Store,
    policies: PolicyStore,
    scheduler: SchedulerLink,
    policy: PolicyPublisher,
    spending: SpendingFeed,
    streams: EventStreams,
    reading: Reading,
    offers: Offers,
    peer_tokens: PeerTokens,
    agents: Agents,
    fleet: Fleet,
    transports: tuple[str, ...],
    numbers: Numbers,
    calls: Calls,
    broker: Broker,
    readiness: Readiness,
    settings: ApiSettings,
    schema: Callable[[], dict[str, Any]],
) -> list[HTTPRouteHandler]:
    """Return all routes of HTTP; `schema` gives their OpenAPI document."""
    shelf = shelf_of(settings.recordings_dir, settings.recordings_url, link_s=settings.recording_link_s)
    endpoints = Endpoints(store, WebhookSecrets.of(settings.webhook_keys_dir, settings.webhook_keys, os.environ))
    vault = Vault(shelf, open_keys(settings.recording_keys_dir, settings.recording_keys, os.environ))
    return [
        *session_routes(sessions, store, settings.public_url),
        *command_routes(commands, listen_tickets, settings.public_url),
        *move_routes(moves, settings.public_url),
        *bot_http_routes(bot_http, offers, peer_tokens),
        *pipecat_routes(sessions, agents, settings.public_url),
        *pipecat_offer_routes(offers, peer_tokens),
        *daily_routes(sessions, Dialin(settings.daily_dialin_secrets, settings.daily_numbers), settings.public_url),
        *daily_event_routes(
            daily_goers,
            Signatures(settings.daily_webhook_secrets, "GREENROOM_DAILY_WEBHOOK_SECRETS"),
            settings.public_url,
        ),
        *daily_room_routes(daily_rooms, agents),
        *event_routes(sessions, store, streams, settings.api_max_streams),
        *offer_routes(offers, peer_tokens),
        *call_page_routes(peer_tokens, streams, settings.api_max_streams),
        *post_call_routes(sessions, Steps(store)),
        *post_call_choice_routes(Choices(store)),
        *retention_routes(sessions, store),
        *reading_routes(sessions, store, reading, vault),
        *search_routes(reading),
        *export_routes(reading),
        *recording_routes(sessions, store, vault),
        *runner_order_routes(RunnerOrders(broker, fleet, store)),
        *agent_routes(agents, fleet, store),
        *queue_routes(scheduler),
        *limit_routes(policies, scheduler),
        *pool_routes(policies, scheduler, fleet),
        *reservation_routes(policies),
        *rollout_routes(policies, scheduler),
        *weight_routes(policies),
        *tenant_routes(TenantStore(store, policies)),
        *number_routes(numbers, agents, settings.public_url),
        *webhook_routes(calls, settings.public_url),
        *webhook_endpoint_routes(endpoints, Exits.of(settings.webhook_allow, http=settings.webhook_allow_http)),
        *usage_routes(Usages(store)),
        *price_routes(Prices(store)),
        *budget_routes(Budgets(store, spending)),
        *pin_routes(policies, scheduler, agents),
        *system_routes(
            fleet=fleet,
            transports=transports,
            store=store,
            broker=broker,
            policy=policy,
            readiness=readiness,
            instance_id=settings.instance_id,
            schema=schema,
        ),
    ]
