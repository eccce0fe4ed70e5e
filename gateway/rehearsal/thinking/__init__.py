"""A caller who thinks, and the judge of its calls: models, reached as the gateway reaches its own."""
