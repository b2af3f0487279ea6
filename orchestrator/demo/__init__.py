"""The demo: the whole product on a real Kafka, with stand-ins for the vendors, proven by asking those.

`people` are planted by `parts` into the stand-ins; `story` says what is asked; `stage` runs the processes; `audience` reads
what is answered; `proof` asks every stand-in; `play` is the evening, `show` what one sees of it.

Room rules: starts the product's own processes and speaks to them by Kafka and HTTP alone; imports no connector.
"""

from __future__ import annotations

__all__: list[str] = []
