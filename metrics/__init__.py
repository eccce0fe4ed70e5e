"""What Offhook measures: the segments, the counters, their percentiles and their exposition.

Knows nothing of the gateway or of audio; `offhook.metrics.catalogue.Metrics` is the front door.
"""
