"""An HTTP server with OpenAI's endpoints for drawing and chat, jobs of its own, and a web page. Needs the extra [serve].

Requests wait in a queue that is fair among API keys; those under way take turns on the engine, a step or a token each.
"""
