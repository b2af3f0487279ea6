"""The connector kit: protocol, runtime, journal, throttle, errors, testing. Knows no system by name."""
