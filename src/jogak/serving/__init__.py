"""A server for models: OpenAI's HTTP interface, every task, and a web page, on one continuously running batch."""
