# ruff: noqa: ARG001, PLW0603 - the way such a script is written
"""
Yardstick "naive": the way such a script is usually written.

A callback of RPi.GPIO starts one thread per pulse, which lights the lamp, opens,
writes and closes the CSV file, and appends a dict to a list that another
thread posts every 5 s. From the environment: NAIVE_CSV, INFLUXDB_PORT,
INFLUXDB_DATABASE, and $GPIO_FIFO for the stand-in.
"""

import csv
import os
import threading
import time
from datetime import datetime

from influxdb import InfluxDBClient
from RPi import GPIO

METER_PIN = 18
LED_PIN = 12
IMPULSES_PER_KWH = 1_000_000
CSV_PATH = os.environ["NAIVE_CSV"]

client = InfluxDBClient("127.0.0.1", int(os.environ["INFLUXDB_PORT"]), database=os.environ["INFLUXDB_DATABASE"])
points = []
count = 0
last = None


def blink():
    GPIO.output(LED_PIN, GPIO.HIGH)
    time.sleep(0.1)
    GPIO.output(LED_PIN, GPIO.LOW)


def pulse(channel):
    global count, last
    threading.Thread(target=blink).start()
    now = time.time()
    count += 1
    watts = 3.6e6 / (IMPULSES_PER_KWH * (now - last)) if last else 0.0
    last = now
    kwh = count / IMPULSES_PER_KWH
    with open(CSV_PATH, "a", newline="") as file:
        csv.writer(file).writerow([datetime.fromtimestamp(now).isoformat(), watts, kwh])
    points.append(
        {
            "measurement": "electricity_power",
            "tags": {"meter": "house"},
            "time": time.time_ns(),
            "fields": {"power": watts, "energy": 1000 / IMPULSES_PER_KWH, "register": kwh},
        }
    )


def post():
    while True:
        time.sleep(5)
        batch = points[:]
        if batch:
            client.write_points(batch)
            del points[: len(batch)]


GPIO.setmode(GPIO.BOARD)
GPIO.setup(METER_PIN, GPIO.IN)
GPIO.setup(LED_PIN, GPIO.OUT)
GPIO.add_event_detect(METER_PIN, GPIO.FALLING, callback=pulse)
post()
