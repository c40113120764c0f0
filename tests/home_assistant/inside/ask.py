"""
Asks a running Home Assistant over its websocket; by Home Assistant's own Python.

ask.py HTTP_PORT TOKEN: reads questions as a JSON list of objects and prints the list of what was answered.
"""

import asyncio
import json
import sys

import aiohttp


async def ask(port: str, token: str, questions: list[dict]) -> list:
    """What Home Assistant answers to each of *questions*."""
    answers = []
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{port}/api/websocket", max_msg_size=0) as socket,
    ):
        await socket.receive_json()
        await socket.send_json({"type": "auth", "access_token": token})
        welcome = await socket.receive_json()
        if welcome["type"] != "auth_ok":
            raise RuntimeError(welcome)
        for number, question in enumerate(questions, 1):
            await socket.send_json({"id": number, **question})
            answer = {}
            while answer.get("id") != number or answer["type"] != "result":
                answer = await socket.receive_json()
            if not answer["success"]:
                raise RuntimeError(f"{question}: {answer['error']}")
            answers.append(answer["result"])
    return answers


print(json.dumps(asyncio.run(ask(*sys.argv[1:3], json.load(sys.stdin)))))
