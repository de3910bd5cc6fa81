"""How the page of a date looks: fonts of the reader's own machine, light or dark as the reader has it."""

STYLE = """
:root{--ink:#1b2530;--soft:#5b6875;--line:#dfe4ea;--paper:#f6f7f9;--card:#fff;--accent:#b5347a;--heat:#de4968;
--area:#2a78b8;--field:#8fa9c0;--shadow:0 1px 2px rgba(20,30,40,.06),0 6px 20px rgba(20,30,40,.06)}
@media (prefers-color-scheme:dark){:root{--ink:#e8edf2;--soft:#9aa7b4;--line:#2c3641;--paper:#12181f;--card:#1a222b;
--accent:#ff8cc2;--heat:#fe7f8f;--area:#6db6f0;--field:#56708a;--shadow:none}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue","DejaVu Sans",sans-serif;-webkit-font-smoothing:antialiased}
main{max-width:1180px;margin:0 auto;padding:44px 28px 64px}
.eyebrow{margin:0;color:var(--accent);font-size:12.5px;font-weight:650;letter-spacing:.09em;text-transform:uppercase}
h1{margin:4px 0 6px;font-size:38px;line-height:1.12;letter-spacing:-.02em;font-weight:680}
h2{margin:0 0 14px;font-size:19px;letter-spacing:-.01em}
h3{margin:0;font-size:17px;display:flex;align-items:center;gap:9px}
.lead{margin:0;max-width:64ch;color:var(--soft)}
section{margin-top:42px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:14px;margin:26px 0 0}
.tiles div{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:15px 18px;box-shadow:var(--shadow)}
.tiles dd{margin:0;font-size:29px;font-weight:660;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.tiles dt{color:var(--soft);font-size:13px}
.maps{display:grid;grid-template-columns:repeat(auto-fit,minmax(340px,1fr));gap:18px}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:12px;overflow:hidden;box-shadow:var(--shadow)}
figcaption{display:flex;justify-content:space-between;padding:11px 16px;border-bottom:1px solid var(--line);font-weight:620}
figcaption span{color:var(--soft);font-weight:400;font-size:13px}
svg{display:block;width:100%;height:auto}
.grid{stroke:var(--line);stroke-width:1;fill:none}
.tick{fill:var(--soft);font-size:11px}
.field{fill:var(--field);fill-opacity:.16;stroke:var(--field);stroke-width:1}
.area{fill:none;stroke:var(--area);stroke-width:1.8;stroke-dasharray:6 4}
.plume{fill:var(--heat);fill-opacity:.78;stroke:var(--card);stroke-width:.8}
.source{fill:var(--card);stroke:var(--ink);stroke-width:1.6}
.number{fill:var(--ink);font-size:12.5px;font-weight:700;paint-order:stroke;stroke:var(--card);stroke-width:3.5px}
.leader{stroke:var(--soft);stroke-width:1;fill:none}
.wind{stroke:var(--ink);stroke-width:1.7;fill:none;stroke-linecap:round;stroke-linejoin:round}
.bar{stroke:var(--ink);stroke-width:2.4}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:12px;box-shadow:var(--shadow)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{padding:11px 14px;text-align:left;color:var(--soft);font-size:12.5px;font-weight:600;white-space:nowrap}
td{padding:10px 14px;border-top:1px solid var(--line);vertical-align:top}
.n{text-align:right}.t{white-space:nowrap}.strong{font-weight:660;white-space:nowrap}
.badge{display:inline-flex;align-items:center;justify-content:center;min-width:24px;height:24px;padding:0 6px;border-radius:12px;
background:var(--accent);color:var(--card);font-size:13px;font-weight:700;text-decoration:none}
.cards{display:grid;gap:20px;margin-top:20px}
.card{display:grid;grid-template-columns:minmax(260px,440px) 1fr;background:var(--card);border:1px solid var(--line);
border-radius:14px;overflow:hidden;box-shadow:var(--shadow)}
.card img{width:100%;height:auto;display:block;background:#fff;padding:10px}
.nopicture{display:grid;place-items:center;min-height:200px;color:var(--soft);background:var(--paper)}
.text{padding:20px 24px;min-width:0}
.rate{margin:6px 0 12px;font-size:27px;font-weight:660;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.rate small{font-size:15px;font-weight:450;color:var(--soft);letter-spacing:0}
.rate.none{font-size:19px;color:var(--soft)}
.rate.none small{display:block;font-size:13.5px}
.facts{margin:0;display:grid;gap:0}
.facts div{display:grid;grid-template-columns:112px 1fr;gap:12px;padding:6px 0;border-top:1px solid var(--line)}
.facts dt,.versions dt{color:var(--soft);font-size:13.5px}
.facts dd{margin:0;min-width:0;overflow-wrap:anywhere}
.facts small{color:var(--soft)}
.ids,.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:12.2px;overflow-wrap:anywhere}
.id{margin:12px 0 0;color:var(--soft);font:11.5px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
.versions{margin:0;display:grid;grid-template-columns:repeat(auto-fill,minmax(230px,1fr));gap:10px 22px}
.versions dd{margin:0}
.note,.empty{color:var(--soft);font-size:13.5px;max-width:84ch}
.empty{background:var(--card);border:1px dashed var(--line);border-radius:12px;padding:22px;max-width:none;font-size:15px}
@media (max-width:760px){.card{grid-template-columns:1fr}main{padding:28px 16px 48px}h1{font-size:29px}
.maps{grid-template-columns:1fr}.facts div{grid-template-columns:92px 1fr}}
@media print{body{background:#fff}.card,figure,.tiles div,.scroll{break-inside:avoid;box-shadow:none}}
"""
"""Style sheet of the page."""
