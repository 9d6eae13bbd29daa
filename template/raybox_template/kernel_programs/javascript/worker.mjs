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
let running = 0; // number of the cell that runs, 0 while none does
let interrupted = false; // it was; whatever error it ends with is that
let ended = Promise.resolve(); // of the last interrupt: nothing will end what comes next
let words = 0;
const heard = new Map(); // by word: called when the main thread has heard it

/** Tell the main thread to give up its cell, and wait until it has heard that. */
function giveUp() {
  const id = ++words;
  return new Promise((resolve) => {
    heard.set(id, resolve);
    tell('interrupt', id);
  });
}

function interrupt() {
  if (!running || interrupted) return;
  interrupted = true;
  ended = endCell(running);
}

async function endCell(number) {
  let session; // not for good: a process does not exit quietly while anybody is connected
  let timer;
  await new Promise((resolve) => {
    giveUp().then(resolve);
    timer = setInterval(() => {
      if (session === undefined) {
        session = new Session();
        session.connectToMainThread();
      }
      session.post('Runtime.terminateExecution', () => {});
      giveUp().then(resolve); // it may have been this very word whose handling was ended
    }, ANSWER_MS);
  });
  clearInterval(timer);
  if (session !== undefined) {
    await isFree(session);
    session.disconnect();
  }
  await giveUp();
  await giveUp(); // what the main thread had to say for the first one has arrived
  if (running !== number) return;
  running = 0; // its own words for the end were ended, too
  send('error', INTERRUPT);
  send('done', { status: 'error', number });
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
  [running, interrupted] = [number, false];
  count += 1;
  await new Promise((written) => send('input', [count, number], written));
  const script = translate(code);
  if (running !== number) return; // an interrupt has ended it already
  if (interrupted) await ended;
  else tell('execute', { script, env, number, count });
}

parentPort.on('message', ([kind, content, number]) => {
  if (kind === 'heard') {
    heard.get(content)?.();
    heard.delete(content);
  } else if (number !== undefined && number !== running) return; // of a cell that was given up
  else if (kind === 'error' && interrupted) send('error', INTERRUPT);
  else if (kind !== 'display_data' || wire.writableLength <= MAX_UNSENT_BYTES) {
    if (kind === 'done') running = 0;
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
