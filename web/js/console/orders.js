// @ts-check
import { toast } from '../dom.js';

/** @type {(() => void) | undefined} */
let after;

/** @param {() => void} refresh  called after every order, so that the page shows it at once */
export function afterOrders(refresh) {
  after = refresh;
}

/**
 * Gives an order and says what became of it.
 * @param {() => Promise<unknown>} give @param {string} done @param {HTMLButtonElement} [button]  disabled meanwhile
 */
export async function order(give, done, button) {
  if (button) button.disabled = true;
  try {
    await give();
    toast(done);
  } catch (error) {
    toast(`That did not work: ${error instanceof Error ? error.message : error}`, { bad: true });
  } finally {
    if (button) {
      const focused = document.activeElement === document.body;
      button.disabled = false;
      if (focused) button.focus({ preventScroll: true }); // disabling took the focus away
    }
    after?.();
  }
}
