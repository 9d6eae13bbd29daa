// Follows a run that takes a while, and interrupts another one that takes too long; its variables stay.
import { Sandbox, TimeoutError } from '@e2b/code-interpreter'

const sandbox = await Sandbox.create({ timeoutMs: 120_000 })
try {
  const started = Date.now()
  const pieces = []
  await sandbox.runCode(
    'import time\nfor step in range(5):\n    print("step", step, flush=True)\n    time.sleep(0.3)',
    { onStdout: (message) => pieces.push({ text: message.line, atMs: Date.now() - started }) }
  )
  process.stdout.write(pieces.map((piece) => piece.text).join(''))
  const lastsMs = pieces.at(-1).atMs - pieces[0].atMs
  console.log('streamed:', pieces.length > 1 && lastsMs > 600)

  await sandbox.runCode('kept = 42')
  try {
    const ended = await sandbox.runCode('while True: time.sleep(1)', { timeoutMs: 500 })
    console.log('ended by itself:', ended.error?.name, ended.error?.value)
  } catch (error) {
    console.log('interrupted:', error instanceof TimeoutError)
  }
  const kept = await sandbox.runCode('kept')
  console.log('kept:', kept.text ?? kept.error)
} finally {
  await sandbox.kill()
}
