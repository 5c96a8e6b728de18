/** The small note beside the pointer. */

export class Tip {
  /** @param {HTMLElement} element */
  constructor(element) {
    this.element = element;
  }

  /** @param {string[]} lines @param {{clientX: number, clientY: number}} at */
  show(lines, { clientX, clientY }) {
    const { element } = this;
    element.replaceChildren(...lines.filter(Boolean).map((line, number) => {
      const made = document.createElement(number ? "div" : "b");
      made.textContent = line;
      return made;
    }));
    element.hidden = false;
    const { offsetWidth, offsetHeight } = element;
    const x = Math.min(innerWidth - offsetWidth - 8, clientX + 14);
    const y = clientY + 18 + offsetHeight > innerHeight ? clientY - offsetHeight - 10 : clientY + 18;
    element.style.left = `${Math.max(4, x)}px`;
    element.style.top = `${Math.max(4, y)}px`;
  }

  hide() {
    this.element.hidden = true;
  }
}
