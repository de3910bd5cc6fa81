"""Asks a catalog that is no STAC search, through its provider: the same patience as for all others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from geostack_pipeline.catalog.http import CatalogClient, WindowTimedOutError
from geostack_pipeline.errors import AuthError, CatalogError, CatalogUnavailableError
from geostack_pipeline.providers.contract import ItemsAnswer, SourceFaultError


async def ask_source(client: CatalogClient, call: Callable[[], ItemsAnswer]) -> ItemsAnswer:
    """Return what a provider's blocking call returns, after as many attempts as the policy allows; adds to the counts.

    Raises:
        AuthError: The login was refused, also after it was renewed.
        CatalogError: An answer that is final, or that stays malformed.
        CatalogUnavailableError: 429, 5xx or no connection until the last attempt, or the deadline.
        WindowTimedOutError: It timed out as often as the policy allows.
    """
    policy, pace = client.policy, client.pace
    fault = SourceFaultError("no answer")
    timeouts = 0
    renewed = False
    for attempt in range(1, policy.attempts + 1):
        if attempt > 1:
            pace.retries += 1
        await pace.ready()
        if pace.remaining() <= 0.0:
            break
        try:
            limit = max(0.1, min(policy.walk_timeout_s, pace.remaining()))
            # the thread goes on after the limit; each of its requests has one of its own
            answer = await asyncio.wait_for(asyncio.to_thread(call), limit)
        except TimeoutError:
            fault = SourceFaultError(f"no complete answer within {limit:.0f} s", timed_out=True)
        except SourceFaultError as error:
            fault = error
            client.requests += error.requests
        except AuthError:
            if renewed or not await asyncio.to_thread(client.provider.renew, None):
                raise
            renewed = True
            continue
        else:
            client.requests += answer.requests
            client.bytes_moved += answer.bytes_moved
            return answer
        if fault.timed_out:
            timeouts += 1
            if timeouts >= policy.timeouts:
                raise WindowTimedOutError(str(fault)) from None
        if fault.wait_s is not None:
            pace.hold(min(fault.wait_s, policy.retry_after_cap_s))
        if attempt < policy.attempts:
            await pace.wait(policy.backoff(attempt))
    raise _failure(client, fault)


def _failure(client: CatalogClient, fault: SourceFaultError) -> CatalogError:
    if fault.malformed:
        return CatalogError(
            "the catalog answers with something that is not its protocol",
            subject=client.subject,
            found=str(fault),
            action="run again later; if it stays, check the provider's url",
            retryable=True,
        )
    late = client.pace.remaining() <= 0.0
    return CatalogUnavailableError(
        "the search ran out of time" if late else "the catalog is not available",
        subject=client.subject,
        found=f"{fault}, in up to {client.policy.attempts} attempts",
        action="run again later; what is stored stays as it is",
        retryable=True,
    )
