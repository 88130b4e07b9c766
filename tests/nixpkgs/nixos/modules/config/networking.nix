# The machine's name, /etc/hosts and the firewall's list of ports.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.networking;
  ports = mkOption {
    type = types.listOf types.port;
    default = [ ];
    apply = list: lib.unique (lib.sort lib.lessThan list);
    description = "Open ports.";
  };
in
{
  options.networking = {
    hostName = mkOption {
      # Empty means: ask the cloud at boot.
      type = types.strMatching "^$|^[[:alnum:]]([[:alnum:]_-]{0,61}[[:alnum:]])?$";
      default = config.system.nixos.distroId;
      description = "The machine's name, without the domain.";
    };
    domain = mkOption { type = types.nullOr types.str; default = null; description = "The domain."; };
    fqdn = mkOption {
      type = types.str;
      readOnly = true;
      default = if cfg.domain == null then throw "networking.fqdn: networking.domain is not set" else "${cfg.hostName}.${cfg.domain}";
      description = "Name and domain.";
    };
    fqdnOrHostName = mkOption {
      type = types.str;
      readOnly = true;
      default = if cfg.domain == null then cfg.hostName else cfg.fqdn;
      description = "Name and domain, or the name.";
    };
    hosts = mkOption { type = types.attrsOf (types.listOf types.str); default = { }; description = "Names of addresses."; };
    extraHosts = mkOption { type = types.lines; default = ""; description = "Lines for /etc/hosts."; };
    nameservers = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "Addresses of name servers; stored only.";
    };
    timeServers = mkOption { type = types.listOf types.str; default = [ ]; description = "Time servers; stored only."; };
    useDHCP = mkOption {
      type = types.bool;
      default = true;
      description = "Stored only: the local cloud gives the address.";
    };
    useNetworkd = mkOption { type = types.bool; default = false; description = "Stored only."; };
    # Rules are the security group's here; the ports are kept for whoever reads the configuration.
    firewall = {
      enable = mkOption { type = types.bool; default = true; description = "Stored only."; };
      allowedTCPPorts = ports;
      allowedUDPPorts = ports;
      allowPing = mkOption { type = types.bool; default = true; description = "Stored only."; };
    };
  };

  config = {
    networking.firewall.allowedTCPPorts = lib.mkIf config.services.openssh.enable config.services.openssh.ports;
    environment.etc = {
      hostname = { enable = cfg.hostName != ""; text = cfg.hostName + "\n"; };
      hosts.text = "127.0.0.1 localhost\n::1 localhost\n"
        + lib.optionalString (cfg.hostName != "") "127.0.0.2 ${cfg.fqdnOrHostName}${lib.optionalString (cfg.domain != null) " ${cfg.hostName}"}\n"
        + lib.concatStrings (lib.mapAttrsToList (address: names: "${address} ${toString names}\n") cfg.hosts)
        + cfg.extraHosts;
    };
  };
}
