# Module argument `utils`.
{ lib }:
rec {
  # Quotes an argument of ExecStart= so that systemd expands neither `%` nor `$` in it (systemd.service(5), COMMAND LINES).
  escapeSystemdExecArg = arg: builtins.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON (toString arg));
  escapeSystemdExecArgs = lib.concatMapStringsSep " " escapeSystemdExecArg;
  # The name of a path in the name of a unit, as systemd-escape(1) --path makes it.
  escapeSystemdPath = path:
    let
      trimmed = lib.removeSuffix "/" (lib.removePrefix "/" path);
      escaped = builtins.replaceStrings [ "/" "-" " " ] [ "-" "\\x2d" "\\x20" ] trimmed;
    in
    if trimmed == "" then "-" else escaped;
  toShellPath = shell: if shell ? shellPath then "/run/current-system/sw${shell.shellPath}" else toString shell;
}
