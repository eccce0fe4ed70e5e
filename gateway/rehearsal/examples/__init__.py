"""Two agents to begin one's own from: a practice's appointments, and lists kept by voice.

offhook check gateway/rehearsal/examples/appointments.agent.yaml
offhook simulate appointments lists
"""

__all__: list[str] = []
