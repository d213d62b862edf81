"""The verbs: one file a verb, each a library function of the same name as its command."""
