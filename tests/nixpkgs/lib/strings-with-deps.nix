# Texts that say which others must come before them: activation scripts.
{ lib }:
rec {
  fullDepEntry = text: deps: { inherit text deps; };
  noDepEntry = text: fullDepEntry text [ ];
  packEntry = deps: fullDepEntry "" deps;
  stringAfter = deps: text: fullDepEntry text deps;
}
