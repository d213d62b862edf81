// Shares as text, and how one member's slider moves the others.

// psnr=0.35,gan=0.65: as --alpha takes it.
export function formatAlpha(members, shares) {
  return members.map((name, index) => `${name}=${Number(shares[index].toFixed(4))}`).join(",");
}

// Reads what formatAlpha writes, one number (two members) or one for each member; null for anything else. Four decimals need not sum to
// exactly 1.
export function parseAlpha(text, members) {
  const parts = text.split(",").map(part => part.trim());
  let shares = null;
  if (parts.every(part => part.includes("="))) {
    const pairs = parts.map(part => [part.slice(0, part.lastIndexOf("=")).trim(), parseShare(part.slice(part.lastIndexOf("=") + 1))]);
    if (pairs.every(([name], index) => members.includes(name) && pairs.findIndex(([other]) => other === name) === index)) {
      shares = members.map(name => pairs.find(([other]) => other === name)?.[1] ?? 0);
    }
  } else if (parts.length === 1 && members.length === 2) {
    const share = parseShare(parts[0]);
    shares = [share, 1 - share];
  } else if (parts.length === members.length) {
    shares = parts.map(parseShare);
  }
  if (shares === null || !shares.every(share => share >= 0 && share <= 1)) return null;
  const sum = shares.reduce((total, share) => total + share, 0);
  return Math.abs(sum - 1) <= 0.001 ? shares.map(share => share / sum) : null;
}

function parseShare(text) { return text.trim() === "" ? NaN : Number(text); }

// One member's share is set; the others keep their proportions, or get equal parts if they had none.
export function setShare(shares, member, value) {
  const others = shares.map((share, index) => (index === member ? 0 : share));
  const sum = others.reduce((total, share) => total + share, 0);
  return shares.map((_, index) => {
    if (index === member) return value;
    return (1 - value) * (sum > 0 ? others[index] / sum : 1 / (shares.length - 1));
  });
}
