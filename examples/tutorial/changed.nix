{ config, lib, pkgs, machine, ... }: {
  imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ];

  # The machine's own record is the argument `machine`.
  networking.hostName = machine.name;
  environment.etc."greeting".text = "hello from ${machine.name}\n";

  systemd.services.greeter = {
    description = "Greets whoever reads the journal";
    wantedBy = [ "multi-user.target" ];
    restartTriggers = [ config.environment.etc."greeting".source ];
    script = ''
      while true; do
        cat /etc/greeting
        sleep 60
      done
    '';
  };

  # Open https://search.nixos.org/options for all options
}
