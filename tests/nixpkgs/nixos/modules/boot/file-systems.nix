# File systems. The local cloud gives the machine its root and /boot; all others are mounted from /etc/fstab.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  given = [ "/" "/boot" "/nix" "/nix/store" ];
  mounted = lib.filter (fs: !(lib.elem fs.mountPoint given)) (lib.attrValues config.fileSystems);
  fileSystem = types.submodule ({ name, ... }: {
    options = {
      mountPoint = mkOption { type = types.strMatching "/.*|none"; default = name; description = "Where it is mounted."; };
      device = mkOption { type = types.nullOr types.str; default = null; description = "The device."; };
      label = mkOption { type = types.nullOr types.str; default = null; description = "The label of the device."; };
      fsType = mkOption { type = types.str; default = "auto"; description = "Its type."; };
      options = mkOption { type = types.listOf types.str; default = [ "defaults" ]; description = "Mount options."; };
      autoResize = mkOption { type = types.bool; default = false; description = "Stored only."; };
      autoFormat = mkOption { type = types.bool; default = false; description = "Stored only."; };
      neededForBoot = mkOption { type = types.bool; default = false; description = "Stored only."; };
      noCheck = mkOption { type = types.bool; default = false; description = "Whether it is not checked at boot."; };
    };
  });
  device = fs:
    if fs.device != null then fs.device
    else if fs.label != null then "/dev/disk/by-label/${fs.label}"
    else if fs.fsType == "tmpfs" then "tmpfs"
    else throw "No device specified for mount point ‘${fs.mountPoint}’.";
  escape = lib.replaceStrings [ " " "\t" ] [ "\\040" "\\011" ];
  fields = fs: [
    (escape (device fs)) (escape fs.mountPoint) fs.fsType (escape (lib.concatStringsSep "," fs.options))
    "0" (if fs.noCheck || fs.fsType == "tmpfs" then "0" else "2")
  ];
in
{
  options = {
    fileSystems = mkOption { type = types.attrsOf fileSystem; default = { }; description = "File systems by mount point."; };
    swapDevices = mkOption {
      type = types.listOf (types.attrsOf types.anything);
      default = [ ];
      description = "Swap devices; must be empty here.";
    };
  };
  config = {
    environment.etc.fstab.text = "# Made from fileSystems.\n" + lib.concatMapStrings (fs: toString (fields fs) + "\n") mounted;
    assertions = [
      { assertion = config.swapDevices == [ ]; message = "swapDevices: machines of this <nixpkgs> share their host's memory and cannot swap."; }
      { assertion = config.fileSystems ? "/"; message = "The ‘fileSystems’ option does not specify your root file system."; }
    ];
  };
}
