// aedes.mjs MODULE PORT: a broker by the library aedes, which speaks only MQTT 3.1.1, on loopback.
import { createServer } from 'node:net'
import { pathToFileURL } from 'node:url'

const { Aedes } = await import(pathToFileURL(process.argv[2]))
const broker = await Aedes.createBroker()
createServer(broker.handle).listen(Number(process.argv[3]), '127.0.0.1')
