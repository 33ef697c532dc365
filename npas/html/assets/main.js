// Colours, and everything drawn once.
function themeSwitch() {
  const switches = byId('theme');
  const set = (theme) => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  };
  let kept = '';
  try {
    kept = localStorage.getItem('npas-theme') || '';
  } catch { /* a page without storage starts as the system is */ }
  for (const input of switches.querySelectorAll('input')) {
    input.checked = input.value === kept;
    input.addEventListener('change', () => {
      set(input.value);
      try {
        localStorage.setItem('npas-theme', input.value);
      } catch { /* not kept */ }
    });
  }
  set(['light', 'dark'].includes(kept) ? kept : '');
  switches.hidden = false;
}

themeSwitch();
layersSection();
banksSection();
changesSection();
keptSection();
followLinks((asked) => {
  const bank = B.name.indexOf(asked.get('bank'));
  if (bank >= 0) showBank(bank);
  else goToLayers(asked);
});
// Milliseconds from opening the page to its rows, for benchmarks/look.py.
document.documentElement.dataset.rowsMs = performance.now().toFixed(0);
