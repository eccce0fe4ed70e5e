"""The rehearsal model on the OpenAI Realtime protocol, with the script and the voice of the other."""
