# What writes the boot entry: `system.build.installBootLoader`, run with a toplevel.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.boot.loader;

  grub = pkgs.runCommandLocal "install-grub.sh" {
    path = lib.makeBinPath [
      pkgs.coreutils
      pkgs.gnugrep
    ];
    inherit (pkgs) bash;
    inherit (config.system.nixos) distroName;
    inherit (cfg.grub) configurationLimit;
    default = toString cfg.grub.default;
    timeout = toString (if cfg.timeout == null then -1 else cfg.timeout);
    # What NixOS's install-grub.sh names in the same way.
    config = pkgs.writeText "grub-config.xml" (builtins.toXML {
      grubTarget = "i386-pc";
      grubTargetEfi = lib.optionalString cfg.grub.efiSupport "x86_64-efi";
      devices = lib.optional (cfg.grub.device != "") cfg.grub.device ++ cfg.grub.devices;
    });
  } ''
    substitute() { sed ${lib.concatMapStringsSep " " (n: ''-e "s|@${n}@|''$${n}|"'') [ "path" "bash" "distroName" "configurationLimit" "default" "timeout" "config" ]} "$1"; }
    substitute ${./install-grub.sh} > $out
    chmod +x $out
  '';

  # NixOS's words when no loader is enabled.
  none = pkgs.writeShellScript "no-boot-loader" ''
    echo "Warning: do not know how to make this configuration bootable; please enable a boot loader." >&2
  '';
in
{
  config = {
    system.build.installBootLoader = if cfg.grub.enable then grub else none;
    environment.systemPackages = lib.optional cfg.grub.enable pkgs.grub2;
    assertions = [
      {
        assertion = !cfg.systemd-boot.enable;
        message = "boot.loader.systemd-boot: the machines that this <nixpkgs> is for boot with GRUB, as NixOS's images for EC2 do.";
      }
    ];
  };
}
