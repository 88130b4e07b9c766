# Platforms: the two that NixOS publishes EC2 images for.
{ lib }:
let
  known = {
    x86_64-linux = { arch = "x86_64"; efi = "x64"; };
    aarch64-linux = { arch = "aarch64"; efi = "aa64"; };
  };
in
rec {
  flakeExposed = builtins.attrNames known;
  doubles = { all = flakeExposed; linux = flakeExposed; };
  platforms = { all = flakeExposed; linux = flakeExposed; unix = flakeExposed; darwin = [ ]; };

  # The description of a platform from its name, or from a set that names it.
  elaborate = given:
    let
      system = if builtins.isString given then given else given.system or (throw "lib.systems.elaborate: the platform has no `system'");
      found = known.${system} or (throw
        "this <nixpkgs> knows the systems ${lib.concatStringsSep " and " flakeExposed}, not `${system}'");
    in
    {
      inherit system;
      config = "${found.arch}-unknown-linux-gnu";
      efiArch = found.efi;
      parsed.cpu.name = found.arch;
      linuxArch = if found.arch == "x86_64" then "x86_64" else "arm64";
      isLinux = true;
      isDarwin = false;
      isUnix = true;
      is64bit = true;
      isx86 = found.arch == "x86_64";
      isx86_64 = found.arch == "x86_64";
      isAarch = found.arch == "aarch64";
      isAarch64 = found.arch == "aarch64";
    };
  equals = a: b: a.system == b.system;
}
