// The kernel's own thread: requests from the wire to the main thread, its answers back, and the end of what runs there.
// Frames are JSON arrays `[kind, content]`, one a line, in both directions. The wire is descriptor 3.
import { Session } from 'node:inspector';
import net from 'node:net';
import { parentPort } from 'node:worker_threads';
import { translate } from './translate.mjs';

const WIRE = 3;
// What a flood of displays may leave unsent before more of them are dropped.
const MAX_UNSENT_BYTES = 32 << 20;
// A main thread that does not answer within this time is running JavaScript, which has to be ended from here.
const ANSWER_MS = 30;

const wire = new net.Socket({ fd: WIRE, readable: true, writable: true });

const INTERRUPT = { ename: 'KeyboardInterrupt', evalue: '', traceback: ['KeyboardInterrupt'] };
const send = (kind, content, written) => wire.write(`${JSON.stringify([kind, content])}\n`, written);
const tell = (kind, content) => parentPort.postMessage([kind, content]);

let count = 0;
let running = false;
let interrupted = false; // the running cell was; whatever error it ends with is that
let interrupts = 0;
let heard; // called when the main thread has heard of an interrupt
let ended = Promise.resolve(); // of the last one: the main thread is free, and nothing will end what comes next

function interrupt() {
  if (!running || interrupted) return;
  interrupted = true;
  const id = ++interrupts;
  const answered = new Promise((resolve) => {
    heard = (which) => which === id && resolve();
  });
  let session; // not for good: a process does not exit quietly while anybody is connected
  tell('interrupt', id);
  const timer = setInterval(() => {
    if (session === undefined) {
      session = new Session();
      session.connectToMainThread();
    }
    session.post('Runtime.terminateExecution', () => {});
    tell('interrupt', id); // it may have been this very word whose handling was ended
  }, ANSWER_MS);
  ended = answered.then(async () => {
    clearInterval(timer);
    if (session === undefined) return;
    await isFree(session);
    session.disconnect();
  });
}

/** Wait for JavaScript that is not ended any more: an order that came when nothing ran ends what runs next. */
async function isFree(session) {
  for (let free = false; !free; ) {
    free = await new Promise((resolve) => {
      session.post('Runtime.evaluate', { expression: '1' }, (error, answer) => resolve(answer?.result?.value === 1));
    });
  }
}

/** Report the cell's beginning before anything that it prints, then have it run. */
async function begin({ code, env, number }) {
  [running, interrupted] = [true, false];
  count += 1;
  await new Promise((written) => send('input', [count, number], written));
  const script = translate(code);
  if (!interrupted) return tell('execute', { script, env, number, count });
  running = false; // the main thread was told when there was nothing to interrupt yet
  send('error', INTERRUPT);
  send('done', { status: 'error', number });
}

parentPort.on('message', ([kind, content]) => {
  if (kind === 'heard') heard?.(content);
  else if (kind === 'error' && interrupted) send('error', INTERRUPT);
  else if (kind === 'display_data' && wire.writableLength > MAX_UNSENT_BYTES) return;
  else {
    if (kind === 'done') running = false;
    send(kind, content);
  }
});

let requests = Promise.resolve();
let rest = '';
wire.setEncoding('utf8');
wire.on('data', (text) => {
  const lines = (rest + text).split('\n');
  rest = lines.pop();
  for (const line of lines.filter(Boolean)) {
    const [kind, content] = JSON.parse(line);
    if (kind === 'interrupt') interrupt();
    else {
      requests = requests.then(async () => {
        await ended;
        if (kind === 'execute') await begin(content);
        else tell(kind, content);
      });
    }
  }
});
wire.on('end', () => process.kill(process.pid, 'SIGKILL'));
