# Time zone and language.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  zone = config.time.timeZone;
in
{
  options = {
    time.timeZone = mkOption {
      type = types.nullOr (types.strMatching "[^ ]*");
      default = null;
      description = "The time zone; UTC if null.";
    };
    time.hardwareClockInLocalTime = mkOption { type = types.bool; default = false; description = "Stored only."; };
    i18n.defaultLocale = mkOption { type = types.str; default = "en_US.UTF-8"; description = "The language."; };
    i18n.extraLocaleSettings = mkOption {
      type = types.attrsOf types.str;
      default = { };
      description = "Further LC_ variables.";
    };
    i18n.supportedLocales = mkOption { type = types.listOf types.str; default = [ ]; description = "Stored only."; };
    console.keyMap = mkOption { type = types.either types.str types.path; default = "us"; description = "Stored only."; };
    console.font = mkOption {
      type = types.nullOr (types.either types.str types.path);
      default = null;
      description = "Stored only.";
    };
  };
  config.environment.etc = {
    localtime = lib.mkIf (zone != null) { source = "${pkgs.tzdata}/share/zoneinfo/${zone}"; };
    "locale.conf".text = lib.concatStrings (lib.mapAttrsToList (name: value: "${name}=${value}\n")
      ({ LANG = config.i18n.defaultLocale; } // config.i18n.extraLocaleSettings));
  };
}
