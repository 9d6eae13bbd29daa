// What programs are written with: the same statuses as those of the Python clients.
import { isDeepStrictEqual } from 'node:util'
import * as e2b from 'e2b'
import { Sandbox } from '@e2b/code-interpreter'

export const programs = new Map()
export const LIFE_MS = 120_000

export class Differs extends Error {}
export class Absent extends Error {}
export class Mismatch extends Error {}

export const program = (name, run) => programs.set(name, run)

export function same(actual, expected) {
  if (!isDeepStrictEqual(actual, expected)) {
    throw new Mismatch(`${JSON.stringify(actual)} instead of ${JSON.stringify(expected)}`)
  }
}

export function that(truth, what) {
  if (!truth) throw new Mismatch(`not so: ${what}`)
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

export async function until(ready, what, limitMs = 20_000) {
  for (const end = Date.now() + limitMs; !(await ready()); await sleep(20)) that(Date.now() < end, what())
}

/** What the call raises; Mismatch if it does not. */
export async function raised(call) {
  let answer
  try {
    answer = await call()
  } catch (error) {
    return error
  }
  throw new Mismatch(`${JSON.stringify(answer)} instead of an error`)
}

/** Whether it is of the class of this name, or of one derived from it. */
export function isA(error, ...names) {
  for (let kind = error?.constructor; kind; kind = Object.getPrototypeOf(kind)) {
    if (names.includes(kind.name)) return true
  }
  return false
}

/** A class of `e2b` that not every version has. */
export function ofE2b(name) {
  if (!e2b[name]) throw new Absent(name)
  return e2b[name]
}

export class Client {
  made = []
  #shared

  async create(options = {}, template) {
    const wanted = { timeoutMs: LIFE_MS, ...options }
    const sandbox = await (template ? Sandbox.create(template, wanted) : Sandbox.create(wanted))
    this.made.push(sandbox)
    return sandbox
  }

  /** One that programs share which leave it as it was. */
  async sandbox() {
    if (!this.#shared || !(await this.#shared.isRunning())) this.#shared = await this.create()
    return this.#shared
  }

  async end(all) {
    for (const sandbox of this.made) if (all || sandbox !== this.#shared) await sandbox.kill()
    this.made = all ? [] : this.made.filter((one) => one === this.#shared)
  }
}
