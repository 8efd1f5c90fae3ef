// Numbers, sizes and times for people.

const WHOLE = new Intl.NumberFormat("en");

export const count = (value) => WHOLE.format(value);

/** "1 image", "1,440 images". */
export const plural = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

/** A share as a percentage; small ones keep a digit, so that little is not shown as nothing. */
export function percent(share) {
  const value = share * 100;
  if (value === 0) return "0 %";
  if (value < 0.1) return "< 0.1 %";
  return `${value.toFixed(value < 10 ? 1 : 0)} %`;
}

/** A score or weight with three digits that matter. */
export function number(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 0.001) return value.toExponential(0);
  return size >= 100 ? count(Math.round(value)) : value.toFixed(size >= 10 ? 1 : size >= 1 ? 2 : 3);
}

export function bytes(value) {
  const units = ["bytes", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** "24 Nov 2026, 19:31" in the reader's own time zone. */
export function time(text) {
  const options = { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", hour12: false };
  return new Intl.DateTimeFormat("en-GB", options).format(new Date(text));
}

/** A sentence as a person writes it: capital first, full stop last. */
export function sentence(text) {
  const whole = text.trim();
  const first = /^[a-z]+ /.test(whole) ? whole[0].toUpperCase() + whole.slice(1) : whole;
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

export const short = (hash) => `${hash.slice(0, 12)}…`;
