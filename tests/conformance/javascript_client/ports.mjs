// Servers inside, reached through the gateway by the host's name or by headers.
import { readFileSync } from 'node:fs'
import http from 'node:http'
import { program, same, that, until } from './programs.mjs'

const SERVER = readFileSync(new URL('websocket_server.py', import.meta.url), 'utf8')
const POOL = process.env.E2B_API_URL

/** By the name that `getHost` gives, sent to where the pool is: no DNS. */
function ask(sandbox, port, headers = {}) {
  return new Promise((resolve, reject) => {
    const request = http.get(POOL, { headers: { Host: sandbox.getHost(port), ...headers }, agent: false }, (answer) => {
      let text = ''
      answer.setEncoding('utf8')
      answer.on('data', (part) => (text += part))
      answer.on('end', () => resolve({ status: answer.statusCode, text }))
      answer.on('error', reject)
    })
    request.on('error', reject)
  })
}

async function untilUp(sandbox, port, headers) {
  let answer
  await until(
    async () => (answer = await ask(sandbox, port, headers)).status !== 502,
    () => `it comes up: ${answer.text}`
  )
  return answer
}

program('get_host', async (c) => {
  const sandbox = await c.sandbox()
  same(sandbox.getHost(8000), `8000-${sandbox.sandboxId}.${process.env.E2B_DOMAIN}`)
})

program('port_http', async (c) => {
  const sandbox = await c.create()
  await sandbox.files.write('site/index.html', '<h1>hi</h1>')
  await sandbox.commands.run('python3 -m http.server 8000 --directory site', { background: true })
  same((await untilUp(sandbox, 8000)).text, '<h1>hi</h1>')
  const routing = { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': '8000' }
  same(await (await fetch(POOL, { headers: routing })).text(), '<h1>hi</h1>')
})

program('port_closed', async (c) => {
  const answer = await ask(await c.sandbox(), 9)
  const message = 'The sandbox is running but port is not open'
  same([answer.status, JSON.parse(answer.text).message], [502, message])
})

program('port_private', async (c) => {
  const sandbox = await c.create({ network: { allowPublicTraffic: false } })
  await sandbox.commands.run('python3 -m http.server 8000', { background: true })
  same((await ask(sandbox, 8000)).status, 403)
  const token = { 'E2B-Traffic-Access-Token': sandbox.trafficAccessToken }
  same((await untilUp(sandbox, 8000, token)).status, 200)
  same((await sandbox.runCode('1 + 1')).text, '2')
})

/** The socket of a WebSocket, or null while nothing listens. */
function upgraded(sandbox, port) {
  return new Promise((resolve, reject) => {
    const headers = {
      Host: sandbox.getHost(port),
      Upgrade: 'websocket',
      Connection: 'Upgrade',
      'Sec-WebSocket-Version': '13',
      'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==',
    }
    const request = http.get(POOL, { headers, agent: false }, (answer) => resolve(answer.resume() && null))
    request.on('upgrade', (answer, socket) => resolve({ answer, socket }))
    request.on('error', reject)
  })
}

program('port_websocket', async (c) => {
  const sandbox = await c.sandbox()
  await sandbox.files.write('websocket_server.py', SERVER)
  const handle = await sandbox.commands.run('python3 websocket_server.py', { background: true })
  let open = null
  await until(
    async () => (open = await upgraded(sandbox, 8765)) !== null,
    () => 'it is upgraded'
  )
  same(open.answer.headers['sec-websocket-accept'], 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=')
  let echo = Buffer.alloc(0)
  open.socket.on('data', (data) => (echo = Buffer.concat([echo, data])))
  open.socket.write(Buffer.from([0x81, 0x82, 0, 0, 0, 0, 0x68, 0x69]))
  await until(
    () => echo.length >= 4,
    () => 'it is echoed'
  )
  that(echo.equals(Buffer.from([0x81, 0x02, 0x68, 0x69])), `the same comes back: ${echo.toString('hex')}`)
  open.socket.destroy()
  await handle.kill()
})
