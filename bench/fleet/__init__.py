"""A fleet of unequal machines, simulated: what a routing policy does to requests, to machines and to their owners.

- `scenario`  what a file in `scenarios/` says: traffic, machines, what they claim, and what has to come out.
- `arrivals`  the requests, the same for every policy: times, models, prompts with shared beginnings, answers' lengths.
- `physics`   one machine as it truly is: slots, engine queue, memory, loading, prefill, decoding, caches.
- `sight`     what a gateway is told: reports, refusals and answers, and the interface that every policy has.
- `scheduler` Potluck's own policy, which is `potluck.policy` and nothing else: no formula is written there.
- `naive`     the policies that failed in the field, each in a few lines.
- `oracle`    perfect knowledge of the present, as a measure.
- `world`     the clock (simpy): arrivals meet a policy, calls meet machines, reports travel, owners come and go.
- `results`   counts, shares and times, judged by what the scenario asks for.
- `trial`     a scenario under the oracle, ours and the naive policies; `table` shows it.

Physics, arrivals and scenarios know nothing of `potluck.policy`, and the scheduler nothing of the physics: import
contracts hold that. A policy that is good here is not good by construction.
"""
