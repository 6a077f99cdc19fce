"""For authors of methods and adapters: small models with known answers, and the contracts as functions to call."""
